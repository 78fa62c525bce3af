"""Mean scores against the number of tasks that adapters were trained on together, easiest first."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.figure import Figure
from pydantic import Field

from lorafuse_bench.analysis.base import Part
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.boards.board import Board, Row, Score
from lorafuse_bench.picture import colours, new_figure

BASE = "base"


class Point(Part):
    """A method trained on so many tasks."""

    tasks: int = Field(description="number of tasks trained on together")
    score: float = Field(description="mean raw score over the tasks scored, and over seeds")
    sd: float | None = Field(description="standard deviation over seeds, None with one")
    se: float | None = Field(description="standard error over items")
    by_seed: dict[str, float] = Field(description="seed to its score")
    parameters: int | None = Field(description="numbers trained beside the base's")


Curves = dict[str, list[Point]]


def curve(stages: Iterable[tuple[int, Board]]) -> Curves:
    """Method to its points, one for every (number of tasks trained on, board): mean raw score and its uncertainty."""
    methods: Curves = {}
    for count, board in stages:
        for row in measured(board):
            if row.overall is not None:
                methods.setdefault(row.label, []).append(_point(count, row, row.overall))
    return methods


def measured(board: Board) -> list[Row]:
    """The rows that were measured here; LorafuseError for a board of losses, which has no mean score."""
    if all(column.direction == "down" for column in board.columns):
        raise of_losses(board.suite)
    return [row for row in board.rows if row.origin == "measured"]


def of_losses(suite: str) -> LorafuseError:
    """What to say of a suite of losses where scores are compared."""
    return LorafuseError(
        f"suite '{suite}' is of losses, and this analysis compares scores. Name a suite of scores;"
        " `lorafuse leaderboard build` ranks losses."
    )


def curve_figure(methods: Curves, scored: str) -> Figure:
    """Mean score against K, one line a method, with the deviation over seeds."""
    figure, axes = new_figure(width=9)
    for (label, points), colour in zip(methods.items(), colours(), strict=False):
        counts = [point.tasks for point in points]
        style = {"linestyle": "--", "color": "grey"} if label == BASE else {"color": colour}
        errors = [point.sd or 0.0 for point in points]
        axes.errorbar(counts, [p.score for p in points], errors, marker="o", capsize=3, label=label, **style)
    axes.set_xticks(sorted({point.tasks for points in methods.values() for point in points}))
    axes.set_xlabel("tasks trained on together, easiest first")
    axes.set_ylabel(scored)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    return figure


def _point(count: int, row: Row, overall: Score) -> Point:
    return Point(
        tasks=count,
        score=overall.value,
        sd=overall.sd,
        se=overall.se,
        by_seed={str(seed): value for seed, value in overall.by_seed.items()},
        parameters=row.cost.extra_parameters if row.cost else None,
    )
