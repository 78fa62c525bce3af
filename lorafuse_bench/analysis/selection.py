"""How few of a zoo's experts do as well as all of them, each task served by the best one chosen."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor

from lorafuse_bench.analysis.base import Part, Say, option
from lorafuse_bench.analysis.of_zoo import OfExperts, OfZoo, ZooAnalysis
from lorafuse_bench.analysis.registry import register
from lorafuse_bench.device import Compute, device_of
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion.papers import TRADEOFFS
from lorafuse_bench.picture import new_figure
from lorafuse_bench.training.loss_matrix import read_losses
from lorafuse_bench.zoo.manifest import Zoo


class Chosen(Part):
    """One step of the choice."""

    expert: str = Field(description="the expert added")
    loss: float = Field(description="mean over tasks of the least loss among those chosen, nats per token")


class SelectionResult(OfZoo):
    """The experts in the order they are chosen."""

    order: list[Chosen] = Field(description="one step an expert, the most useful first")
    standard_error: float = Field(description="of the last loss, over dev rows")
    enough: int = Field(description="the fewest experts whose loss is within that error of all experts'")
    not_best: list[str] = Field(description="experts that another one beats on a task of their own")
    not_best_share: float | None = Field(
        description="their share among experts with a task here; None without any"
    )


@register
@dataclass(frozen=True, kw_only=True)
class Selection(OfExperts, ZooAnalysis[SelectionResult]):
    """Experts chosen greedily by `mean_t min_{i in S} M_it`, M the experts' losses on the dev rows of every task.

    `lorafuse fit losses` makes M. The standard error of the mean over T tasks is `sqrt(Σ_t se_t²) / T`, with each
    task's best expert taken as given.
    """

    suite: str | None = option(None, "the suite of the loss matrix, where the zoo has several")

    name = "selection"
    paper = f"{TRADEOFFS}, Figure 7, section 5.1 and appendix B.6"

    def run(self, say: Say) -> SelectionResult:
        zoo = Zoo.open(self.zoo)
        pool = ExpertPool.from_zoo(zoo, self.names).required_by("analysis 'selection'")
        matrix = read_losses(zoo, pool, self.suite)
        losses = matrix.losses.double()
        order, curve = greedy(losses)
        best = losses.argmin(0)
        if single := [t for t, e in zip(matrix.tasks, matrix.standard_errors[0], strict=True) if e.isnan()]:
            raise LorafuseError(
                f"the losses on {single[0]} are of one dev row, which has no standard error. Delete the fit, and run"
                " `lorafuse fit losses` with --dev 2 or more."
            )
        error = (
            matrix.standard_errors.double().gather(0, best[None]).square().sum().sqrt() / len(best)
        ).item()
        own = {e.name: [matrix.tasks.index(t) for t in e.tasks if t in matrix.tasks] for e in pool.experts}
        told = [i for i, name in enumerate(matrix.experts) if own[name]]
        beaten = [
            matrix.experts[i]
            for i in told
            if any(losses[i, t] > losses[:, t].min() for t in own[matrix.experts[i]])
        ]
        return SelectionResult(
            **self.facts(Compute(device_of(self.device), torch.float64)),
            order=[Chosen(expert=matrix.experts[i], loss=loss) for i, loss in zip(order, curve, strict=True)],
            standard_error=error,
            enough=1 + next(k for k, loss in enumerate(curve) if loss <= curve[-1] + error),
            not_best=beaten,
            not_best_share=len(beaten) / len(told) if told else None,
        )

    def figure(self, result: SelectionResult) -> Figure:
        """The loss against the number of experts, and the band of one standard error above all of them."""
        figure, axes = new_figure()
        curve = [step.loss for step in result.order]
        axes.plot(range(1, len(curve) + 1), curve, marker="o")
        axes.axhspan(
            curve[-1], curve[-1] + result.standard_error, color="grey", alpha=0.3, label="all, + 1 s.e."
        )
        axes.set_xlabel("experts chosen")
        axes.set_ylabel("mean least loss (nats per token)")
        axes.legend()
        return figure


def greedy(losses: Tensor) -> tuple[list[int], list[float]]:
    """Experts in the order they are chosen, and the mean least loss after each, of `losses (N, T)`.

    Of equally good ones the first; each step takes the one that leaves the least loss.
    """
    least = torch.full_like(losses[0], float("inf"))
    left, order, curve = list(range(len(losses))), [], []
    while left:
        means = torch.minimum(losses[left], least).mean(1)
        place = int(means.argmin())
        curve.append(means[place].item())
        order.append(left.pop(place))
        least = torch.minimum(least, losses[order[-1]])
    return order, curve
