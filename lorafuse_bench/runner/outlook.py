"""What a plan will run, and about how long and with how much memory, from cells that were measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from heapq import heapreplace

from lorafuse_bench.device import device_of
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.identity import processor
from lorafuse_bench.leaderboards.results import cell_files
from lorafuse_bench.leaderboards.results.schema import Result
from lorafuse_bench.runner.grid import Grid
from lorafuse_bench.runner.plan import Cell


@dataclass(frozen=True)
class Outlook:
    """A cell; why it will run, None where it is kept; what it takes, None where nothing like it was measured."""

    cell: Cell
    reason: str | None
    seconds: float | None
    peak_bytes: int | None


def outlooks(grid: Grid) -> list[Outlook]:
    """Of every cell of the grid, in order; LorafuseError as `run` raises it. Nothing is written or loaded.

    Measured are the finished cells in the folder that were asked the same of a base, with experts of the same ranks, on
    a processor of the same kind: those of the same method with the same options where there are any, else with
    others, else of any method. Seconds, to fuse and to evaluate, are their median, bytes the most of them.
    """
    here = processor(device_of(grid.plan.device))
    measured = [each for each in _measured(grid) if each.environment.hardware.rpartition(",")[0] == here]
    found = []
    for cell in grid.cells:
        like = _like(cell, grid.drafts[cell.path], measured)
        seconds = [result.cost.fuse_seconds + result.cost.eval_seconds for result in like]
        peaks = [result.cost.peak_bytes for result in like if result.cost.peak_bytes is not None]
        found.append(
            Outlook(
                cell,
                grid.why_run(cell),
                statistics.median(seconds) if seconds else None,
                max(peaks, default=None),
            )
        )
    return found


def _measured(grid: Grid) -> Iterator[Result]:
    """The results in the plan's folder that can be read."""
    for path in sorted(grid.plan.out.glob("*/*/*.json")):
        with suppress(LorafuseError):
            yield cell_files.read_result(path)


def seconds_until_done(seconds: Sequence[float], workers: int) -> float:
    """Until the last of some cells is done, each handed to the first worker that is free, in order."""
    free = [0.0] * min(workers, len(seconds))
    for each in seconds:
        heapreplace(free, free[0] + each)
    return max(free, default=0.0)


def _work(result: Result) -> tuple[object, ...]:
    """What a cell's time and memory depend on beside its method and the machine."""
    asked = (
        result.suite,
        result.limit,
        result.max_length,
        result.num_fewshot,
        result.told,
        result.batch_size,
    )
    ranks = tuple(expert.rank for expert in result.experts)
    return (*asked, result.data.source, result.base.sha256, result.base.dtype, ranks)


def _like(cell: Cell, draft: Result, measured: Sequence[Result]) -> Sequence[Result]:
    same = [result for result in measured if _work(result) == _work(draft)]
    method = [result for result in same if result.method.name == draft.method.name]
    exact = [result for result in method if result.method.options == draft.method.options]
    return exact or method or same
