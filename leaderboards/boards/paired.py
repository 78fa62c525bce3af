"""Two methods on the same items: paired differences per task, items flipped, p values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.boards import alike
from lorafuse_bench.leaderboards.boards.collect import Cell, fill_statistics, read
from lorafuse_bench.leaderboards.results.samples import item_scores
from lorafuse_bench.leaderboards.statistics import rank_intervals, stats

TIE = 1e-9  # item scores closer than this are the same


@dataclass(frozen=True)
class TaskComparison:
    """One task: the metric of both, a minus b with its paired error, and the items that differ.

    `a_better` of n items are scored better for a, `b_better` for b (of a loss, lower is better). `p` is
    two-sided; `p_holm` is corrected over the tasks.
    """

    task: str
    metric: str
    direction: str
    n: int
    a: float
    b: float
    difference: float
    se: float | None
    p: float | None
    p_holm: float | None
    a_better: int
    b_better: int


@dataclass(frozen=True)
class Comparison:
    """Two cells of one suite, zoo and seed."""

    suite: str
    zoo: str
    seed: int
    a: str
    b: str
    tasks: tuple[TaskComparison, ...]


def compare(a: str | Path, b: str | Path) -> Comparison:
    """Compare two result files on the tasks of both; LorafuseError where they do not compare."""
    known: dict[str, tuple[str, ...]] = {}
    one, two = (read(Path(path), known) for path in (a, b))
    alike.check_pair(one, two)
    fill_statistics([one, two])
    tasks = [_task(one, two, key) for key in one.result.tasks if key in two.result.tasks]
    corrected = iter(rank_intervals.holm(np.array([task.p for task in tasks if task.p is not None])))
    return Comparison(
        suite=one.result.suite,
        zoo=one.result.zoo.name,
        seed=one.result.zoo.seed,
        a=one.label,
        b=two.label,
        tasks=tuple(
            replace(task, p_holm=None if task.p is None else float(next(corrected))) for task in tasks
        ),
    )


def _task(a: Cell, b: Cell, key: str) -> TaskComparison:
    task = a.result.tasks[key]
    metric = task.metrics[task.representative]
    x, y = a.representative(key), b.representative(key)
    difference = stats.paired_difference(x, y)
    sign = 1 if metric.direction == "up" else -1
    gains = sign * (item_scores(x.items, x.measure) - item_scores(y.items, y.measure))
    return TaskComparison(
        task=key,
        metric=task.representative,
        direction=metric.direction,
        n=task.n,
        a=x.value,
        b=y.value,
        difference=difference.value,
        se=difference.se,
        p=_p(difference, task.n),
        p_holm=None,
        a_better=int((gains > TIE).sum()),
        b_better=int((gains < -TIE).sum()),
    )


def _p(difference: stats.Estimate, n: int) -> float | None:
    """Two-sided p; of n items that all differ by the same, whose error comes out as 0, the sign test's 2^(1 − n)."""
    if difference.se is None:
        return None
    if abs(difference.value) > TIE >= difference.se:
        return float(2.0 ** (1 - n))
    return rank_intervals.two_sided(difference.value, difference.se)


def result_of(folder: str | Path, label: str) -> Path:
    """The one result file of a method below a folder; LorafuseError naming what is there instead."""
    from lorafuse_bench.errors import unknown
    from lorafuse_bench.leaderboards.boards.collect import result_files

    found: dict[str, list[Path]] = {}
    for path in result_files([folder]):
        found.setdefault(read(path, {}).label, []).append(path)
    if label not in found:
        raise unknown("method", label, found)
    if len(found[label]) > 1:
        files = ", ".join(str(path) for path in found[label])
        raise LorafuseError(
            f"{folder}: several results of '{label}': {files}. Name two files, or one folder."
        )
    return found[label][0]
