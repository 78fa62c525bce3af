"""Processes that share the work of a command on one machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing import parent_process
from threading import Thread

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


def end_with_parent() -> None:
    """Have this process end when the one that started it does, killed or not, instead of waiting for it for ever."""
    Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
