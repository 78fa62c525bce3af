"""Whether a result is what its items make: the same tasks, documents, metrics and values."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.measures import Measure, fitting, named
from lorafuse_bench.leaderboards.results.plausible import distinct

if TYPE_CHECKING:
    from lorafuse_bench.leaderboards.results.schema import Items, Metric, Result, Task


def check_items(path: str | Path, result: Result, items: Items) -> None:
    """LorafuseError, naming `path` and the field, where items and result disagree."""
    for key in sorted(result.tasks.keys() ^ items.root.keys()):
        raise LorafuseError(f"{path}: {key}: the task is not in both result and items. Run the cell again.")
    for key, task in result.tasks.items():
        held = items.root[key]
        if task.representative not in task.metrics.keys() & held.metrics.keys():
            raise LorafuseError(f"{path}: tasks.{key}: no value or no items of '{task.representative}'.")
        if len(held.doc_hashes) != task.n:
            raise LorafuseError(
                f"{path}: {key}.doc_hashes: {len(held.doc_hashes)} documents, but n is {task.n}."
            )
        if held.docs_sha256() != task.docs_sha256:
            raise LorafuseError(
                f"{path}: {key}.doc_hashes: other documents than the result's docs_sha256. Run the cell again."
            )
        if not distinct(held.doc_hashes):
            raise LorafuseError(
                f"{path}: {key}.doc_hashes: only {len(set(held.doc_hashes))} different documents of {task.n}."
                " Score each document once."
            )
        for name in sorted(task.metrics.keys() - held.metrics.keys()):
            raise LorafuseError(f"{path}: {key}.metrics.{name}: no items. Run the cell again.")
        for name, scores in held.metrics.items():
            _check_metric(f"{path}: {key}.metrics.{name}", task, name, scores)


def _check_metric(where: str, task: Task, name: str, scores: list[Any]) -> None:
    """One metric: as many items as documents, every number finite, the value what the items make."""
    if name not in task.metrics or len(scores) != task.n:
        raise LorafuseError(f"{where}: {len(scores)} items, but the result has {task.n} or lacks the metric.")
    numbers = [x for row in scores for x in row] if isinstance(scores[0], list) else scores
    if not all(map(math.isfinite, numbers)):
        raise LorafuseError(f"{where}: NaN or inf among the items. Find out why and run the cell again.")
    said = task.metrics[name]
    try:
        measure = measure_of(said, scores)
        array = measure.array(scores)
    except LorafuseError as error:
        raise LorafuseError(f"{where}: {error}") from error
    if problem := measure.impossible(array, said.unit):
        raise LorafuseError(f"{where}: {problem}. Find out why and run the cell again.")
    value, kind = measure.point(array), measure.kind
    if not math.isclose(value, said.value, rel_tol=1e-6, abs_tol=1e-9):
        raise LorafuseError(f"{where}: the items make {value:.6g}, the result says {said.value:.6g}.")
    if kind != said.stderr_method:
        raise LorafuseError(
            f"{where}: its items are of kind '{kind}', stderr_method says '{said.stderr_method}'."
        )


def measure_of(metric: Metric, items: Any) -> Measure:
    """The measure that a metric names; in results of version 1, which name none, the one that its items fit."""
    return named(metric.measure) if metric.measure else fitting(items, metric.unit)
