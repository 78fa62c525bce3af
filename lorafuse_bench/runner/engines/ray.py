"""A Ray cluster, or one that is started on this machine for the run: an actor for each worker."""

from __future__ import annotations

import atexit
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from threading import Event, Thread, main_thread
from typing import Any

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.runner.grid import Grid
from lorafuse_bench.runner.sharing import Engine
from lorafuse_bench.runner.worker import Answer, Order, Remote
from lorafuse_bench.uncaught import EXIT_BAD_INPUT, say

ASKED = 2.0
"""Seconds between two questions to a cluster's head."""
MISSED = 5
"""Questions without an answer after which it is lost. Ray itself ends the process without a word of ours after 60 s."""
LEAVING = 5.0
"""Seconds that the main thread has to leave what it waits for."""


def installed() -> Any:
    """The package; LorafuseError with the command that installs it where it is not there."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when it is imported
    try:
        import ray
    except ImportError:
        raise LorafuseError(
            "--engine ray needs Ray, which is not installed: pip install 'lorafuse-bench[ray]'."
        ) from None
    return ray


@contextmanager
def engine(grid: Grid, workers: int, address: str | None) -> Iterator[Engine]:
    """Workers on the cluster at `address`, by default one on this machine; LorafuseError where none answers.

    What travels is the plan: zoo, data and results by path or name, which every machine must see alike.
    """
    ray = installed()
    here = {"address": "local", "num_cpus": workers, "include_dashboard": False}
    try:
        ray.init(**({"address": address} if address else here), log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise LorafuseError(
            f"--ray-address {address}: no Ray cluster answers there ({_line(error)}). Start one with"
            " `ray start --head`, with the same RAY_AUTH_MODE here and there, or leave the option out."
        ) from error
    watch = Watch(ray.get_runtime_context().gcs_address)
    try:
        gpu = grid.plan.device != "cpu" and "GPU" in ray.cluster_resources()
        yield Ray(ray, Order.of(grid), gpu)
    except (KeyboardInterrupt, ray.exceptions.RaySystemError) as error:
        if isinstance(error, KeyboardInterrupt) and not watch.lost:
            raise
        raise LorafuseError(watch.said) from error
    finally:
        watch.stop()
        if watch.lost:
            atexit.unregister(ray.shutdown)  # it would wait for the head
        else:
            ray.shutdown()


class Watch:
    """Asks a cluster's head whether it is there; where it is not, `lost` is true and the main thread interrupted.

    Where that thread is inside Ray, which waits for the head, the process is ended here: Ray would do so later.
    """

    def __init__(self, head: str) -> None:
        host, _, port = head.rpartition(":")
        self._place, self._done, self.lost = (host, int(port)), Event(), False
        self.said = (
            f"the Ray cluster is lost: its head at {head} does not answer. Run the same command again to go on,"
            " there or with --engine local."
        )
        Thread(target=self._ask, daemon=True).start()

    def stop(self) -> None:
        self._done.set()

    def _ask(self) -> None:
        missed = 0
        while missed < MISSED and not self._done.wait(ASKED):
            try:
                socket.create_connection(self._place, ASKED).close()
                missed = 0
            except OSError:
                missed += 1
        if missed == MISSED:
            self.lost = True
            signal.pthread_kill(main_thread().ident or 0, signal.SIGINT)
            if not self._done.wait(LEAVING):
                say(self.said)
                os._exit(EXIT_BAD_INPUT)


class Ray:
    """Actors on the cluster, with a CPU each, and a GPU where there are any."""

    def __init__(self, ray: Any, order: Order, gpu: bool) -> None:
        self.lost: tuple[type[BaseException], ...] = (
            ray.exceptions.RayActorError,
            ray.exceptions.OutOfMemoryError,
        )
        self._make = partial(ray.remote(num_cpus=1, num_gpus=int(gpu))(Remote).remote, order)
        self._kill = ray.kill

    def start(self) -> Actor:
        return Actor(self._make(), self._kill)


class Actor:
    """An actor as it is reached from here; it holds the base on its machine."""

    def __init__(self, actor: Any, kill: Any) -> None:
        self._actor, self._kill = actor, kill

    def submit(self, name: str) -> Future[Answer]:
        future: Future[Answer] = self._actor.attend.remote(name).future()
        return future

    def stop(self) -> None:
        self._kill(self._actor)


def _line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
