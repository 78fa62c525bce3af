"""This machine: one worker in this process, or several in processes of their own."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle
from multiprocessing import get_context
from multiprocessing.managers import SyncManager

import torch

from lorafuse_bench.device import AUTO, device_of
from lorafuse_bench.progress import Relay, Watcher, relayed
from lorafuse_bench.runner.grid import Grid
from lorafuse_bench.runner.sharing import Engine
from lorafuse_bench.runner.worker import Answer, Order, Remote, Worker
from lorafuse_bench.workers import end_with_parent, single_threaded

_SPAWN = get_context("spawn")


@contextmanager
def engine(grid: Grid, workers: int, watcher: Watcher) -> Iterator[Engine]:
    """Workers on this machine; several take its GPUs in turn, or one thread each on a CPU."""
    if workers == 1:
        yield Here(Worker(grid, watcher))
        return
    with (
        single_threaded(device_of(grid.plan.device).type == "cpu"),
        _manager() as manager,
        relayed(watcher, manager.Queue()) as relay,
    ):
        yield Processes(Order.of(grid), relay, cycle(devices(grid.plan.device)))


def devices(asked: str) -> list[str]:
    """Where workers compute: every GPU, where no particular one was asked for."""
    count = torch.cuda.device_count()
    return [f"cuda:{i}" for i in range(count)] if count and asked in (AUTO, "cuda") else [asked]


def _manager() -> SyncManager:
    manager = SyncManager(ctx=_SPAWN)
    manager.start(end_with_parent)
    return manager


@dataclass(frozen=True)
class Here:
    """The one worker of this process; a cell is done when it is handed over."""

    worker: Worker
    lost = ()

    def start(self) -> Here:
        return self

    def submit(self, name: str) -> Future[Answer]:
        future: Future[Answer] = Future()
        future.set_result(self.worker.attend(name))
        return future

    def stop(self) -> None:
        pass


@dataclass(frozen=True)
class Processes:
    """Workers in processes of their own."""

    order: Order
    relay: Relay
    devices: Iterator[str]
    lost = (BrokenProcessPool,)

    def start(self) -> Process:
        plan = replace(self.order.plan, device=next(self.devices))
        return Process(replace(self.order, plan=plan), self.relay)


class Process:
    """One of them: an executor of one process, so that none takes the others along when it dies."""

    def __init__(self, order: Order, relay: Relay) -> None:
        self.pool = ProcessPoolExecutor(1, _SPAWN, _begin, (order, relay))

    def submit(self, name: str) -> Future[Answer]:
        try:
            return self.pool.submit(_attend, name)
        except BrokenProcessPool as error:  # it died since its last cell
            future: Future[Answer] = Future()
            future.set_exception(error)
            return future

    def stop(self) -> None:
        self.pool.shutdown()


_remote: Remote
"""In a process that was started here: its worker."""


def _begin(order: Order, relay: Relay) -> None:
    global _remote
    end_with_parent()
    _remote = Remote(order, relay)


def _attend(name: str) -> Answer:
    return _remote.attend(name)
