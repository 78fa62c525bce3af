"""Linear maps are merged apart from each other, so several at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from lorafuse_bench.experts import ExpertPool, ModuleStack
from lorafuse_bench.workers import single_threaded_blas

MOST = 4
"""Maps at a time at most: each takes memory of its own."""

Result = TypeVar("Result")


def each_map(pool: ExpertPool, merge: Callable[[str, ModuleStack], Result]) -> dict[str, Result]:
    """`merge(module, stack)` of every module, in the pool's order, on as many threads as torch has, up to `MOST`.

    Each computes with one thread. Inside a merge torch's threads, NumPy's and SciPy's would wait for each other most of
    the time, and busily; so a result does not depend on their number.
    """
    results: dict[str, Result] = {}
    waiting = deque[tuple[str, Future[Result]]]()
    with _threads() as (executor, count):
        for module, stack in pool.modules.items():
            if len(waiting) == count:
                first, future = waiting.popleft()
                results[first] = future.result()
            waiting.append((module, executor.submit(merge, module, stack)))
        return results | {module: future.result() for module, future in waiting}


@contextmanager
def _threads() -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """Workers and how many there are; they see the caller's gradient mode, which belongs to a thread."""
    threads, gradients = torch.get_num_threads(), torch.is_grad_enabled()
    count = min(threads, MOST)

    def begin() -> None:
        torch.set_num_threads(1)
        torch.set_grad_enabled(gradients)

    try:
        with single_threaded_blas(), ThreadPoolExecutor(count, initializer=begin) as executor:
            yield executor, count
    finally:
        torch.set_num_threads(threads)  # the workers' number holds for threads that start later, too
