"""Which tasks are easy: those that methods trained on all of them do best."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from lorafuse_bench.analysis.curve import BASE, measured
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.boards.board import Board
from lorafuse_bench.tasks.suites import suite as suite_of


def easiest_first(boards: Sequence[Board], suite: str) -> tuple[str, ...]:
    """The suite's tasks by the mean score of all methods trained on the whole suite, highest first.

    The measure of difficulty of Yuan et al. 2025, section 4.2; equal scores keep the suite's order.
    """
    whole = [board for board in boards if board.suite == suite]
    if len(whole) != 1:
        raise LorafuseError(
            f"{len(whole)} boards of the whole of {suite}, where the order of its tasks needs one."
        )
    scores = difficulty(whole[0])
    return tuple(sorted(suite_of(suite).tasks, key=lambda key: -scores[key]))


def difficulty(board: Board) -> dict[str, float]:
    """Task to the mean over methods of its representative metric; the base is not a method."""
    rows = [row for row in measured(board) if row.label != BASE]
    return {c.task: fmean(row.tasks[c.task].metrics[c.metric].value for row in rows) for c in board.columns}
