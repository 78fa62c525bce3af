"""Mean scores against the number of tasks that adapters were trained on together, easiest first."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lorafuse_bench.leaderboards.board import Board, Row, Score
from lorafuse_bench.picture import colours, new_figure, write_figure

BASE = "base"


def curve(stages: Iterable[tuple[int, Board]]) -> dict[str, list[dict[str, Any]]]:
    """Method to its points, one for every (number of tasks trained on, board): mean raw score and its uncertainty."""
    methods: dict[str, list[dict[str, Any]]] = {}
    for count, board in stages:
        for row in measured(board):
            if row.overall is not None:
                methods.setdefault(row.label, []).append(_point(count, row, row.overall))
    return methods


def measured(board: Board) -> list[Row]:
    """The rows that were measured here."""
    return [row for row in board.rows if row.origin == "measured"]


def plot_curve(result: dict[str, Any], path: Path) -> None:
    """Write a PNG of mean score against K, one line a method, with the deviation over seeds."""
    figure, axes = new_figure(width=9)
    for (label, points), colour in zip(result["methods"].items(), colours(), strict=False):
        counts = [point["tasks"] for point in points]
        style = {"linestyle": "--", "color": "grey"} if label == BASE else {"color": colour}
        errors = [point["sd"] or 0.0 for point in points]
        axes.errorbar(
            counts, [p["score"] for p in points], errors, marker="o", capsize=3, label=label, **style
        )
    axes.set_xticks(sorted({p["tasks"] for points in result["methods"].values() for p in points}))
    axes.set_xlabel("tasks trained on together, easiest first")
    axes.set_ylabel(result["scored"])
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    write_figure(figure, path)


def _point(count: int, row: Row, overall: Score) -> dict[str, Any]:
    return {
        "tasks": count,
        "score": overall.value,
        "sd": overall.sd,
        "se": overall.se,
        "by_seed": {str(seed): value for seed, value in overall.by_seed.items()},
        "parameters": row.cost.extra_parameters if row.cost else None,
    }
