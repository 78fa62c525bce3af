"""Weight summing: the factors are combined before they are multiplied."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion.base import Law, Merged, option
from lorafuse_bench.fusion.merging.elementwise import Weighted
from lorafuse_bench.fusion.papers import RETHINKING
from lorafuse_bench.fusion.registry import register


@register
@dataclass(frozen=True)
class WeightSum(Weighted):
    """One LoRA from linearly combined factors (merge-before).

    `Ā = Σ λ_i A_i (r, in)`, `B̄ = Σ λ_i s_i B_i (out, r)`, `ΔW = B̄ Ā`: with one common scaling `s`
    this is the paper's `s · (Σ λ_i B_i)(Σ λ_i A_i)`; unequal scalings and ranks are folded into `B`
    and padded. λ_i = 1 by default (the reported row, Table 5 of the paper), 1/N with `average`.
    Cross terms `B_i A_j` make this meaningful only for experts that share their initial A.
    Source: rethinking LoRA merging, section 3.4 (2). Cost: one LoRA of the largest rank.
    """

    average: bool = option(False, "λ_i = 1/N instead of 1")
    weights: str | None = option(
        None, "λ_i in the order of the experts, separated by '/', such as 0.5/0.3/0.2"
    )

    name = "weight_sum"
    paper = f"{RETHINKING}, section 3.4"

    def __post_init__(self) -> None:
        if self.average and self.weights is not None:
            raise LorafuseError(
                "method 'weight_sum': average and weights exclude each other. Give one of them."
            )

    @property
    def merge_before(self) -> bool:
        return True

    @property
    def laws_broken(self) -> dict[Law, str]:
        broken = super().laws_broken
        if not self.average:
            broken["copies of one expert are it"] = "weights are 1, not 1/N"
        return broken

    def default_weight(self, experts: int) -> float:
        return 1 / experts if self.average else 1.0

    def fuse(self, pool: ExpertPool) -> Merged:
        weights = torch.tensor(self.expert_weights(pool))
        return Merged(
            {
                module: (
                    torch.einsum("n,nri->ri", weights, stack.A),
                    torch.einsum("n,nor->or", weights, stack.B),
                )
                for module, stack in pool.modules.items()
            }
        )
