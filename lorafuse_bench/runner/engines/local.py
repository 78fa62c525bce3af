"""This machine: one worker in this process, or several in processes of their own."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from multiprocessing.managers import SyncManager

import torch

from lorafuse_bench.device import AUTO, device_of
from lorafuse_bench.progress import Relay, Watcher, relayed
from lorafuse_bench.runner.grid import Grid
from lorafuse_bench.runner.sharing import Engine
from lorafuse_bench.runner.worker import Answer, Order, Remote, Worker
from lorafuse_bench.workers import end_with_parent, single_threaded, take_interrupts, uninterrupted

_SPAWN = get_context("spawn")


@contextmanager
def engine(grid: Grid, workers: int, watcher: Watcher) -> Iterator[Engine]:
    """Workers on this machine; several take its GPUs in turn, or one thread each on a CPU.

    Where several are asked for, a last cell is a process's too: with other threads its blocks would not be taken up.
    """
    if workers == 1:
        yield Here(Worker(grid, watcher))
        return
    with (
        single_threaded(device_of(grid.plan.device).type == "cpu"),
        _manager() as manager,
        relayed(watcher, manager.Queue()) as relay,
    ):
        yield Processes(Order.of(grid), relay, Counter(dict.fromkeys(devices(grid.plan.device), 0)))


def devices(asked: str) -> list[str]:
    """Where workers compute: every GPU, where no particular one was asked for."""
    count = torch.cuda.device_count()
    return [f"cuda:{i}" for i in range(count)] if count and asked in (AUTO, "cuda") else [asked]


def _manager() -> SyncManager:
    manager = SyncManager(ctx=_SPAWN)
    with uninterrupted():
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
    devices: Counter[str]
    """How many workers compute on each."""
    lost = (BrokenProcessPool,)

    def start(self) -> Process:
        device = min(self.devices, key=self.devices.__getitem__)
        self.devices[device] += 1
        plan = replace(self.order.plan, device=device)
        return Process(replace(self.order, plan=plan), self.relay, partial(self.devices.subtract, [device]))


class Process:
    """One of them: an executor of one process, so that none takes the others along when it dies."""

    def __init__(self, order: Order, relay: Relay, leave: Callable[[], object]) -> None:
        self.pool = ProcessPoolExecutor(1, _SPAWN, _begin, (order, relay))
        with uninterrupted():
            self._process = self.pool.submit(os.getpid)
        self._at: Future[Answer] = Future()
        self._leave = leave

    def submit(self, name: str) -> Future[Answer]:
        try:
            self._at = self.pool.submit(_attend, name)
        except BrokenProcessPool as error:  # it died since its last cell
            self._at = Future()
            self._at.set_exception(error)
        return self._at

    def stop(self) -> None:
        if not (self._at.done() or self._at.cancel()):
            with suppress(BrokenProcessPool, ProcessLookupError):
                os.kill(self._process.result(), signal.SIGINT)
        self.pool.shutdown()
        self._leave()


_remote: Remote
"""In a process that was started here: its worker."""
_busy = _told = False
"""Whether it is at a cell, and whether it was told to leave."""


def _begin(order: Order, relay: Relay) -> None:
    global _remote
    end_with_parent()
    take_interrupts(_interrupted)
    _remote = Remote(order, relay)


def _interrupted(number: int, frame: object) -> None:
    """Leave the cell, whose last answers are kept on the way; between cells there is nothing to leave."""
    global _told
    _told = True
    if _busy:
        raise KeyboardInterrupt


def _attend(name: str) -> Answer:
    global _busy
    _busy = True
    try:
        if _told:  # since it was given the cell
            raise KeyboardInterrupt
        return _remote.attend(name)
    finally:
        _busy = False
