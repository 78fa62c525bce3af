"""Task conflict: how a method's mean score falls as it is trained on more and harder tasks at once."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from lorafuse_bench.analysis.curve import BASE, curve, measured
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.board import Board
from lorafuse_bench.tasks.suites import suite as suite_of


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
    return {
        "schema": "lorafuse.analysis.conflict/1",
        "suite": suite,
        "scored": "mean score over these tasks",
        "tasks": [[column.task for column in board.columns] for board in own],
        "scores_by_task": difficulty(own[-1]),
        "methods": curve((len(board.columns), board) for board in own),
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
    return tuple(sorted(suite_of(suite).tasks, key=lambda key: -scores[key]))


def difficulty(board: Board) -> dict[str, float]:
    """Task to the mean over methods of its representative metric; the base is no method."""
    rows = [row for row in measured(board) if row.label != BASE]
    return {c.task: fmean(row.tasks[c.task].metrics[c.metric].value for row in rows) for c in board.columns}


def _belongs(board: Board, suite: str) -> bool:
    part = set(board.suite.split("/")) <= set(suite_of(suite).tasks)
    return board.oblivion and (part or board.suite == suite)
