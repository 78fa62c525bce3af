"""The papers' rows on a suite, normalised by the papers' own oracles, to stand beside measured rows."""

from __future__ import annotations

import numpy as np

from lorafuse_bench.leaderboards import reported, stats
from lorafuse_bench.leaderboards.board import Row, Score, TaskScores
from lorafuse_bench.leaderboards.stats import Estimate, Statistic


def reported_rows(suite: str) -> list[Row]:
    """The papers' rows on the same tasks and metrics, normalised by the papers' own oracles."""
    return [
        _row(table, row, next(r for r in table.rows if r.role == "oracle"))
        for table in reported.tables_of(suite)
        for row in table.rows
    ]


def _row(table: reported.Reported, row: reported.ReportedRow, oracle: reported.ReportedRow) -> Row:
    tasks: dict[str, dict[str, Score]] = {}
    ratios: dict[str, Estimate] = {}
    for column, value, reference in zip(table.columns, row.values, oracle.values, strict=True):
        if value is None or reference is None:
            continue
        scale = 0.01 if column.unit == "percent" else 1.0
        x, y = (Statistic(v * scale, np.empty(0), 0.0) for v in (value, reference))
        tasks.setdefault(column.task, {})[column.metric] = _score(x.estimate())
        if column.representative:
            ratios[column.task] = stats.paired_ratio(x, y)
    scores = {
        key: TaskScores(metrics=metrics, normalised=_score(ratios[key]) if key in ratios else None)
        for key, metrics in tasks.items()
    }
    return Row(
        label=row.label,
        family="reference" if row.role != "method" else "reported",
        role=row.role,
        origin="reported",
        source=f"{table.paper}, {table.table}, {row.model}",
        ability=_score(stats.mean_of(list(ratios.values()))),
        tasks=scores,
    )


def _score(estimate: Estimate) -> Score:
    return Score(value=estimate.value, se=estimate.se, sd=None, by_seed={})
