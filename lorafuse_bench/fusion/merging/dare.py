"""DARE: drop most of each update at random, rescale the rest, and add."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion.base import Law, option
from lorafuse_bench.fusion.merging.elementwise import Dropping, weighted_sum
from lorafuse_bench.fusion.papers import DARE
from lorafuse_bench.fusion.registry import register


@register
@dataclass(frozen=True)
class Dare(Dropping):
    """The mean of the experts' updates after random dropping.

    `ΔW = scale · Σ λ_i m_i ⊙ (s_i B_i A_i) / density`, entries of the mask `m_i (out, in)` being 1 with
    probability `density`, so that the expectation is that of no dropping. `λ_i = 1/N`, absent experts
    counting as zero; 1 with `combine=sum`, the paper's task arithmetic.
    A mask is drawn from (seed, adapter's name, module): the order of the experts does not matter, and
    another name is another draw. Source: Yu et al. 2024, section 3.2, with p = 1 - density.
    `space=factors` does the same to the `A_i` and the `s_i B_i`, then multiplies: PEFT's `dare_linear`,
    but that puts `√(λ_i s_i)` on both. Cost: one full-rank update (products).
    """

    combine: Literal["mean", "sum"] = option("mean", "λ_i = 1/N (mean) or 1 (sum)")

    name = "dare"
    paper = f"{DARE}, section 3.2"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.combine == "sum" and self.weights is not None:
            raise LorafuseError(
                "method 'dare': combine=sum and weights exclude each other. Give one of them."
            )

    @property
    def laws_broken(self) -> dict[Law, str]:
        broken = super().laws_broken
        if self.combine == "sum":
            broken["copies of one expert are it"] = "weights are 1, not 1/N"
        return broken

    def default_weight(self, experts: int) -> float:
        return 1 / experts if self.combine == "mean" else 1.0

    def join(self, tensors: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
        return weighted_sum(tensors, weights)
