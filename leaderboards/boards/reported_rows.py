"""The papers' rows on a suite, against the papers' own oracles or bases, to stand beside measured rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lorafuse_bench.leaderboards import reported
from lorafuse_bench.leaderboards.boards.board import Row, Score, TaskScores
from lorafuse_bench.leaderboards.statistics import stats
from lorafuse_bench.leaderboards.statistics.stats import Estimate, Statistic

OVER_ORACLE = "score over oracle"
"""The quantity of a table that prints no raw scores."""


def reported_rows(suite: str, oblivion: bool) -> list[Row]:
    """The papers' rows on the same tasks and metrics; one that a paper prints twice stands once.

    Normalised by the papers' own oracles; on a board of oblivion, minus the papers' own bases. Where a
    paper prints no oracle, its rows stand raw and have no ability. A table of scores over the oracle is taken
    as it is printed.
    """
    tables = list(reported.tables_of(suite))
    printed: dict[tuple[Any, ...], tuple[reported.Reported, reported.ReportedRow]] = {}
    for table in tables:
        for row in table.rows:
            printed.setdefault((table.paper, row.model, row.label, row.values), (table, row))
    return [_made(table, row, oblivion, tables) for table, row in printed.values()]


def _made(
    table: reported.Reported, row: reported.ReportedRow, oblivion: bool, tables: Sequence[reported.Reported]
) -> Row:
    if oblivion:
        return _changed(table, row, _reference(table, row, "floor", tables))
    if table.quantity == OVER_ORACLE:
        return _printed_ratios(table, row)
    return _normalised(table, row, _reference(table, row, "oracle", tables))


def _printed_ratios(table: reported.Reported, row: reported.ReportedRow) -> Row:
    ratios = {key: held.estimate() for key, held in _printed(table, row).items()}
    tasks = {key: TaskScores(metrics={}, normalised=_score(ratio)) for key, ratio in ratios.items()}
    return _row(table, row, tasks, ability=_mean(ratios.values()))


def _normalised(table: reported.Reported, row: reported.ReportedRow, oracle: dict[str, Statistic]) -> Row:
    own = _printed(table, row)
    ratios = {key: stats.paired_ratio(own[key], oracle[key]) for key in own if key in oracle}
    tasks = {
        key: TaskScores(metrics=metrics, normalised=_score(ratios[key]) if key in ratios else None)
        for key, metrics in _metrics(table, row).items()
    }
    return _row(table, row, tasks, ability=_mean(ratios.values()))


def _changed(table: reported.Reported, row: reported.ReportedRow, base: dict[str, Statistic]) -> Row:
    own = _printed(table, row)
    changes = {key: stats.paired_difference(own[key], base[key]) for key in own if key in base}
    tasks = {
        key: TaskScores(metrics=metrics, change=_score(changes[key]) if key in changes else None)
        for key, metrics in _metrics(table, row).items()
    }
    overall = _mean(x.estimate() for x in own.values())
    return _row(table, row, tasks, overall=overall, change=_mean(changes.values()))


def _row(
    table: reported.Reported,
    row: reported.ReportedRow,
    tasks: dict[str, TaskScores],
    ability: Score | None = None,
    overall: Score | None = None,
    change: Score | None = None,
) -> Row:
    return Row(
        label=row.label,
        family="reference" if row.role != "method" else "reported",
        role=row.role,
        origin="reported",
        source=f"{table.paper}, {table.table}, {row.model}",
        ability=ability,
        overall=overall,
        change=change,
        tasks=tasks,
    )


def _metrics(table: reported.Reported, row: reported.ReportedRow) -> dict[str, dict[str, Score]]:
    """Task to printed metrics, on 0 to 1."""
    metrics: dict[str, dict[str, Score]] = {}
    for column, value in zip(table.columns, row.values, strict=True):
        if value is not None:
            metrics.setdefault(column.task, {})[column.metric] = _score(_exact(column, value).estimate())
    return metrics


def _reference(
    table: reported.Reported, row: reported.ReportedRow, role: str, tables: Sequence[reported.Reported]
) -> dict[str, Statistic]:
    """What the paper prints for the oracle or the base on the model of a row, best in the same table; else empty."""
    for other in (table, *tables):
        if (other.paper, other.quantity) == (table.paper, table.quantity):
            for held in other.rows:
                if held.role == role and held.model == row.model:
                    return _printed(other, held)
    return {}


def _printed(table: reported.Reported, row: reported.ReportedRow) -> dict[str, Statistic]:
    """Task to its printed representative metric, on 0 to 1."""
    return {
        column.task: _exact(column, value)
        for column, value in zip(table.columns, row.values, strict=True)
        if value is not None and column.representative
    }


def _exact(column: reported.ReportedColumn, value: float) -> Statistic:
    """A printed value, of whose error nothing is known."""
    return Statistic(value * (0.01 if column.unit == "percent" else 1.0), np.empty(0), 0.0)


def _mean(estimates: Iterable[Estimate]) -> Score | None:
    held = list(estimates)
    return _score(stats.mean_of(held)) if held else None


def _score(estimate: Estimate) -> Score:
    return Score(value=estimate.value, se=estimate.se, sd=None, by_seed={})
