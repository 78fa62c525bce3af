"""How many experts a linear program over the loss matrix uses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from pydantic import Field

from lorafuse_bench.analysis.base import Say, option
from lorafuse_bench.analysis.of_zoo import OfExperts, OfZoo, ZooAnalysis
from lorafuse_bench.analysis.registry import register
from lorafuse_bench.device import Compute, device_of
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion.ensembling.minimax import minimax_weights
from lorafuse_bench.fusion.papers import TRADEOFFS
from lorafuse_bench.picture import new_figure
from lorafuse_bench.training.loss_matrix import read_losses
from lorafuse_bench.zoo.manifest import Zoo

ABOVE = 1e-6
"""A weight that counts as above zero; the solver's zeros are exact up to rounding."""


class SparsityResult(OfZoo):
    """The program's weights."""

    weights: dict[str, float] = Field(description="expert to its weight; they sum to 1")
    above_zero: float = Field(description="share of experts with a weight above zero")
    worst: float = Field(description="the least worst bound: max over tasks of Σ_i λ_i M_it, nats per token")


@register
@dataclass(frozen=True, kw_only=True)
class Sparsity(OfExperts, ZooAnalysis[SparsityResult]):
    """The weights under which the worst task loses least, and the share of experts they use.

    `min c` subject to `Σ_i λ_i M_it ≤ c` for every task t, λ on the simplex, M the experts' losses on dev rows;
    `lorafuse fit losses` makes M.
    """

    suite: str | None = option(None, "the suite of the loss matrix, where the zoo has several")

    name = "sparsity"
    paper = f"{TRADEOFFS}, Figure 6 and appendix B.5"

    def run(self, say: Say) -> SparsityResult:
        zoo = Zoo.open(self.zoo)
        pool = ExpertPool.from_zoo(zoo, self.names).required_by("analysis 'sparsity'")
        matrix = read_losses(zoo, pool, self.suite)
        weights = minimax_weights(matrix.losses).double()
        return SparsityResult(
            **self.facts(Compute(device_of(self.device), torch.float64)),
            weights=dict(zip(matrix.experts, weights.tolist(), strict=True)),
            above_zero=(weights > ABOVE).double().mean().item(),
            worst=(weights @ matrix.losses.double()).max().item(),
        )

    def figure(self, result: SparsityResult) -> Figure:
        """The weights, largest first."""
        weights = sorted(result.weights.items(), key=lambda item: item[1])
        figure, axes = new_figure(height=1 + 0.25 * len(weights))
        axes.barh([name for name, _ in weights], [weight for _, weight in weights])
        axes.set_xlabel(f"weight; {100 * result.above_zero:.0f}% of the experts above zero")
        return figure
