"""Task oblivion against the number of tasks trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from pydantic import Field

from lorafuse_bench.analysis.base import Analysis, Part, Say, option
from lorafuse_bench.analysis.curve import Curves, curve, curve_figure
from lorafuse_bench.analysis.registry import register
from lorafuse_bench.analysis.stages import stages
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion.papers import MOORE
from lorafuse_bench.leaderboards.boards.board import Board
from lorafuse_bench.leaderboards.boards.builder import build


class LeftResult(Part):
    """Each method's curve over the number of tasks it was trained on."""

    suite: str = Field(description="tasks that nothing was trained on")
    scored: str = Field(description="what a point's score is")
    methods: Curves = Field(description="method to its points")


@register
@dataclass(frozen=True, kw_only=True)
class OblivionAgainstTasks(Analysis[LeftResult]):
    """What is left of a suite after training on K other tasks, for every K there are results of."""

    results: Path = option(
        help="results on the suite and on what was trained on, as `analyze conflict` leaves them"
    )
    suite: str = option("or_mtl", "tasks that nothing was trained on")

    name = "oblivion-against-tasks"
    paper = f"{MOORE}, section 4.3"

    def run(self, say: Say) -> LeftResult:
        return against_tasks(build([self.results]).boards, self.suite)

    def figure(self, result: LeftResult) -> Figure:
        return curve_figure(result.methods, result.scored)


def against_tasks(boards: Sequence[Board], suite: str) -> LeftResult:
    """The curve; LorafuseError with results of a single number of tasks."""
    found = stages(boards, suite)
    if len(found) < 2:
        raise LorafuseError(
            f"results of what {suite} lost under adapters of one number of tasks are no curve."
            " Train on more numbers with `lorafuse analyze conflict --base`."
        )
    return LeftResult(suite=suite, scored=f"mean score over {suite}", methods=curve(found))
