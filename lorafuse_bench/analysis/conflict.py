"""Task conflict: how a method's mean score falls as it is trained on more and harder tasks at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.board import Board, Row, Score
from lorafuse_bench.picture import colours, new_figure, write_figure
from lorafuse_bench.tasks.suites import suite_tasks

BASE = "base"


def conflict(boards: Sequence[Board], suite: str) -> dict[str, Any]:
    """The curve: each method's mean raw score over the first K tasks, for every K there is a board of.

    A board counts whose suite is `suite` or some of its tasks by name (`piqa/boolq`): methods there were
    trained on just these. Mean and standard deviation over seeds. Source: Yuan et al. 2025, section 4.2.
    """
    own = sorted((b for b in boards if _belongs(b, suite)), key=lambda board: len(board.columns))
    if not own:
        raise LorafuseError(
            f"no results of adapters on {suite}. Train some with `lorafuse analyze conflict --base`."
        )
    methods: dict[str, list[dict[str, Any]]] = {}
    for board in own:
        for row in _measured(board):
            if row.overall is not None:
                methods.setdefault(row.label, []).append(_point(board, row, row.overall))
    return {
        "schema": "lorafuse.analysis.conflict/1",
        "suite": suite,
        "tasks": [[column.task for column in board.columns] for board in own],
        "scores_by_task": difficulty(own[-1]),
        "methods": methods,
    }


def easiest_first(boards: Sequence[Board], suite: str) -> tuple[str, ...]:
    """The suite's tasks by the mean score of all methods trained on the whole suite, highest first.

    The paper's measure of difficulty (section 4.2); equal scores keep the suite's order.
    """
    whole = [board for board in boards if board.suite == suite]
    if len(whole) != 1:
        raise LorafuseError(
            f"{len(whole)} boards of the whole of {suite}, where the order of its tasks needs one."
        )
    scores = difficulty(whole[0])
    return tuple(sorted(suite_tasks(suite), key=lambda key: -scores[key]))


def difficulty(board: Board) -> dict[str, float]:
    """Task to the mean over methods of its representative metric; the base is no method."""
    rows = [row for row in _measured(board) if row.label != BASE]
    return {c.task: fmean(row.tasks[c.task].metrics[c.metric].value for row in rows) for c in board.columns}


def plot(result: dict[str, Any], path: Path) -> None:
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
    axes.set_ylabel("mean score over these tasks")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    write_figure(figure, path)


def _belongs(board: Board, suite: str) -> bool:
    part = set(board.suite.split("/")) <= set(suite_tasks(suite))
    return board.oblivion and (part or board.suite == suite)


def _measured(board: Board) -> list[Row]:
    return [row for row in board.rows if row.origin == "measured"]


def _point(board: Board, row: Row, overall: Score) -> dict[str, Any]:
    return {
        "tasks": len(board.columns),
        "score": overall.value,
        "sd": overall.sd,
        "se": overall.se,
        "by_seed": {str(seed): value for seed, value in overall.by_seed.items()},
        "parameters": row.cost.extra_parameters if row.cost else None,
    }
