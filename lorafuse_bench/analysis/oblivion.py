"""Task oblivion: what training on new tasks took from the base, before, after and delta on each task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from pydantic import Field

from lorafuse_bench.analysis.base import Analysis, Part, Say, option
from lorafuse_bench.analysis.curve import BASE, measured
from lorafuse_bench.analysis.registry import register
from lorafuse_bench.analysis.stages import stages
from lorafuse_bench.fusion.papers import MOORE
from lorafuse_bench.leaderboards.boards.board import Board, Row, Score
from lorafuse_bench.leaderboards.boards.builder import build
from lorafuse_bench.picture import colours, new_figure

Scores = dict[str, float | None]
"""Task, and `overall`, to a score."""


class Delta(Part):
    """After minus before."""

    value: float = Field(description="the difference, its mean over seeds")
    se: float | None = Field(description="standard error over items, paired")
    sd: float | None = Field(description="standard deviation over seeds, None with one")


class After(Part):
    """What one method left."""

    after: Scores = Field(description="task, and overall, to the score after training")
    delta: dict[str, Delta | None] = Field(description="task, and overall, to after minus before")


class OblivionResult(Part):
    """The table of one suite."""

    suite: str = Field(description="tasks that nothing was trained on")
    trained_on: int | None = Field(
        description="number of tasks that the methods were trained on, where known"
    )
    before: Scores = Field(description="task, and overall, to the base's score")
    methods: dict[str, After] = Field(description="method to what it left")


@register
@dataclass(frozen=True, kw_only=True)
class Oblivion(Analysis[OblivionResult]):
    """What the base could do before, what remains after, and the difference, per task and overall.

    Where there are results of adapters of several numbers of tasks, it is the table of the most tasks.
    """

    results: Path = option(help="results of the base and of adapted models on the suite")
    suite: str = option("or_mtl", "tasks that nothing was trained on")

    name = "oblivion"
    paper = f"{MOORE}, Table 12"

    def run(self, say: Say) -> OblivionResult:
        return oblivion(build([self.results]).boards, self.suite)

    def figure(self, result: OblivionResult) -> Figure:
        """Deltas, one group of bars a task and one for the mean over tasks."""
        figure, axes = new_figure(width=9)
        groups, methods = list(result.before), result.methods
        width = 0.8 / max(len(methods), 1)
        for place, ((label, entry), colour) in enumerate(zip(methods.items(), colours(), strict=False)):
            deltas = [entry.delta.get(group) for group in groups]
            at = [i - 0.4 + (place + 0.5) * width for i in range(len(groups))]
            axes.bar(at, [d.value if d else 0.0 for d in deltas], width, label=label, color=colour)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_xticks(range(len(groups)), groups, rotation=25, ha="right")
        axes.set_ylabel("after minus before")
        axes.grid(axis="y", alpha=0.3)
        figure.legend(loc="outside right upper")
        return figure


def oblivion(boards: Sequence[Board], suite: str) -> OblivionResult:
    """The table: before (the base), after, delta, and their means over the suite's tasks.

    The statistics are the board's own: paired standard errors over items, deviation over seeds.
    """
    count, board = stages(boards, suite)[-1]
    rows = {row.label: row for row in measured(board)}
    metric = {column.task: column.metric for column in board.columns}
    before = {task: rows[BASE].tasks[task].metrics[name].value for task, name in metric.items()}
    return OblivionResult(
        suite=suite,
        trained_on=count or None,
        before={**before, "overall": _value(rows[BASE].overall)},
        methods={label: _after(row, metric) for label, row in rows.items() if label != BASE},
    )


def _after(row: Row, metric: dict[str, str]) -> After:
    after = {
        task: _value(row.tasks[task].metrics[name]) for task, name in metric.items() if task in row.tasks
    }
    delta = {task: _delta(row.tasks[task].change) for task in metric if task in row.tasks}
    return After(
        after={**after, "overall": _value(row.overall)}, delta={**delta, "overall": _delta(row.change)}
    )


def _value(score: Score | None) -> float | None:
    return None if score is None else score.value


def _delta(score: Score | None) -> Delta | None:
    return None if score is None else Delta(value=score.value, se=score.se, sd=score.sd)
