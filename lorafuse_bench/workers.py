"""Processes that share the work of a command on one machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from multiprocessing import active_children, get_context, parent_process, resource_tracker
from threading import Thread
from types import FrameType

from threadpoolctl import ThreadpoolController

SINGLE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


@contextmanager
def single_threaded(on_cpu: bool) -> Iterator[None]:
    """Processes that are started inside the context compute with one thread each, where they do so on a CPU.

    Two processes with two threads each fight over two cores; a child reads these variables when it imports torch.
    """
    changed = SINGLE_THREAD if on_cpu else {}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for variable, value in before.items():
            if value is None:
                del os.environ[variable]
            else:
                os.environ[variable] = value


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """NumPy and SciPy compute with one thread inside the context.

    Their threads and torch's wait for work busily, and take the cores from each other.
    """
    with _controller().limit(limits=1, user_api="blas"):
        yield


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Processes that are started inside the context are not interrupted by Ctrl-C before they `take_interrupts`.

    A terminal sends it to all of a command's processes, and to each that is not ready for it Python prints a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # starting it lets interrupts through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def sharing(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of so many processes, which end at once, whatever they are at, where the context or this process does.

    What is submitted must go on from what is on the disk.
    """
    pool = ProcessPoolExecutor(workers, get_context("spawn"), end_with_parent)
    try:
        yield pool
    except BaseException:
        for child in active_children():
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def take_interrupts(handle: Callable[[int, FrameType | None], None]) -> None:
    """Have `handle` called when this process is interrupted, and at once where it was since it started."""
    signal.signal(signal.SIGINT, handle)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def end_with_parent() -> None:
    """Have this process end when the one that started it does, killed or not, instead of waiting for it for ever."""
    Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
