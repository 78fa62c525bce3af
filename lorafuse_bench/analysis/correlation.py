"""How near two tasks are by the experts that a trained adapter's router weighs for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor

from lorafuse_bench.analysis.adapter_routing import OfRouter, RouterAnalysis
from lorafuse_bench.analysis.base import Say, option
from lorafuse_bench.analysis.registry import register
from lorafuse_bench.fusion.papers import MOORE
from lorafuse_bench.leaderboards.boards.board import Board
from lorafuse_bench.leaderboards.boards.builder import build
from lorafuse_bench.picture import new_figure


class CorrelationResult(OfRouter):
    """The distance of every two tasks."""

    tasks: list[str] = Field(description="rows and columns of the table")
    change: dict[str, float] = Field(description="task to after minus before, where results tell it")
    correlation: list[list[float]] = Field(description="distances, 0 alike, 1 the farthest pair")


@register
@dataclass(frozen=True, kw_only=True)
class Correlation(RouterAnalysis[CorrelationResult]):
    """The distance of two tasks by their mean routing weights: 0 if they are the same, 1 for the farthest pair.

    `‖ḡ_i − ḡ_j‖₂ / max`, ḡ_k the mean weights `(experts,)` of task k. All 0 where no two tasks differ.
    """

    results: Path | None = option(None, "results on an oblivion suite, to show what its tasks lost")

    name = "correlation"
    paper = f"{MOORE}, Figure 12"

    def run(self, say: Say) -> CorrelationResult:
        found, facts = self.weights()
        return CorrelationResult(
            **facts,
            tasks=list(found),
            change=changes(build([self.results]).boards, self.method) if self.results else {},
            correlation=correlation(found),
        )

    def figure(self, result: CorrelationResult) -> Figure:
        """The table, the tasks' changes of score in the first row where they are known."""
        tasks, change = result.tasks, result.change
        size = 1 + 0.45 * len(tasks)
        figure, axes = new_figure(width=size + 1, height=size)
        image = axes.imshow(result.correlation, vmin=0, vmax=1, cmap="viridis")
        labels = [f"{task} ({change[task]:+.2f})" if task in change else task for task in tasks]
        axes.set_xticks(range(len(tasks)), tasks, rotation=90)
        axes.set_yticks(range(len(tasks)), labels)
        figure.colorbar(image, label="distance of the mean routing weights")
        return figure


def correlation(weights: Mapping[str, Tensor]) -> list[list[float]]:
    """The table of distances, from task to `(prompts, experts)`."""
    means = torch.stack([w.double().mean(0) for w in weights.values()])
    distances = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist")
    largest = distances.max().item()
    table: list[list[float]] = (distances / largest if largest else distances).tolist()
    return table


def changes(boards: Sequence[Board], method: str) -> dict[str, float]:
    """Task to after minus before of a method, from the boards that know what was before."""
    return {
        task: scores.change.value
        for board in boards
        for row in board.rows
        if row.label == method and row.origin == "measured"
        for task, scores in row.tasks.items()
        if scores.change is not None
    }
