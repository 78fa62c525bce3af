"""Which experts a trained adapter's router weighs for which task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor

from lorafuse_bench.analysis.adapter_routing import OfRouter, RouterAnalysis
from lorafuse_bench.analysis.base import Part, Say
from lorafuse_bench.analysis.registry import register
from lorafuse_bench.fusion.papers import MOORE
from lorafuse_bench.picture import new_figure


class Spread(Part):
    """One task's weights."""

    mean: list[float] = Field(description="each expert's mean weight over prompts")
    sd: list[float] = Field(description="its standard deviation over prompts")


class RoutingWeightsResult(OfRouter):
    """Every expert's weight, task by task."""

    tasks: dict[str, Spread] = Field(description="task to its weights")


@register
@dataclass(frozen=True, kw_only=True)
class RoutingWeights(RouterAnalysis[RoutingWeightsResult]):
    """Mean and standard deviation of every expert's weight, task by task.

    A prompt's weight is the mean over its tokens.
    """

    name = "routing-weights"
    paper = f"{MOORE}, Figure 13"

    def run(self, say: Say) -> RoutingWeightsResult:
        found, facts = self.weights()
        return RoutingWeightsResult(**facts, tasks=spread(found))

    def figure(self, result: RoutingWeightsResult) -> Figure:
        """For each task, every expert's mean weight as a point on a stem of its deviation."""
        figure, _ = new_figure(width=8, height=1.4 * len(result.tasks))
        figure.clear()
        rows = figure.subplots(len(result.tasks), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (task, entry) in zip(rows, result.tasks.items(), strict=True):
            axes.errorbar(
                range(len(entry.mean)),
                entry.mean,
                entry.sd,
                fmt=".",
                color="tab:red",
                ecolor="tab:blue",
                markersize=3,
            )
            axes.set_title(task, fontsize="small", loc="left")
            axes.axhline(0, color="grey", linewidth=0.5)
        rows[-1].set_xlabel("expert")
        return figure


def spread(weights: Mapping[str, Tensor]) -> dict[str, Spread]:
    """Mean and standard deviation over prompts of each expert's weight, from task to `(prompts, experts)`."""
    return {
        task: Spread(mean=w.mean(0).tolist(), sd=w.std(0, correction=0).tolist())
        for task, w in weights.items()
    }
