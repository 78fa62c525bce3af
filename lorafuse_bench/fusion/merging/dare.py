"""DARE: drop most of each update at random, rescale the rest, and add."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion.base import Adapter, Law, Merge, option
from lorafuse_bench.fusion.merging.elementwise import (
    SPACE_HELP,
    Space,
    check_options,
    drop_and_rescale,
    expert_weights,
    merge_tensors,
    weighted_sum,
)
from lorafuse_bench.fusion.papers import DARE
from lorafuse_bench.fusion.registry import register


@register
@dataclass(frozen=True)
class Dare(Merge):
    """The mean of the experts' updates after random dropping.

    `ΔW = scale · Σ λ_i m_i ⊙ (s_i B_i A_i) / density`, entries of the mask `m_i (out, in)` being 1 with
    probability `density`, so that the expectation is that of no dropping. `λ_i = 1/N`, absent experts
    counting as zero; 1 with `combine=sum`, the paper's task arithmetic.
    A mask is drawn from (seed, adapter's name, module): the order of the experts does not matter, and
    another name is another draw. Source: Yu et al. 2024, section 3.2, with p = 1 - density.
    `space=factors` does the same to the `A_i` and the `s_i B_i`, then multiplies: PEFT's `dare_linear`,
    but that puts `√(λ_i s_i)` on both. Cost: one full-rank update (products).
    """

    density: float = option(0.5, "probability that an entry is kept (the paper searches .1 to .9)")
    combine: Literal["mean", "sum"] = option("mean", "λ_i = 1/N (mean) or 1 (sum)")
    weights: str | None = option(None, "λ_i in the order of the experts, such as 0.5/0.3/0.2")
    scale: float = option(1.0, "multiplies the merged update (the λ of task arithmetic)")
    seed: int = option(0, "seed of the masks")
    space: Space = option("products", SPACE_HELP)

    name = "dare"
    paper = f"{DARE}, section 3.2"

    def __post_init__(self) -> None:
        check_options(self.name, self.density, self.scale)
        if self.combine == "sum" and self.weights is not None:
            raise LorafuseError(
                "method 'dare': combine=sum and weights exclude each other. Give one of them."
            )

    @property
    def merge_before(self) -> bool:
        return self.space == "factors"

    @property
    def laws_broken(self) -> dict[Law, str]:
        broken = super().laws_broken
        if self.density < 1:
            broken["one expert is itself"] = "entries are dropped at random"
            if self.space == "factors":
                broken["unequal ranks"] = "the draw hangs on the factors' shapes"
        return broken

    def fuse(self, pool: ExpertPool) -> Adapter:
        default = 1 / len(pool) if self.combine == "mean" else 1.0
        weights = expert_weights(self.name, self.weights, pool, default)
        return merge_tensors(
            pool,
            self.space,
            sparsify=lambda tensor, expert, key: drop_and_rescale(
                tensor, self.density, self.seed, expert, key
            ),
            combine=lambda tensors: weighted_sum(tensors, weights),
            scale=self.scale,
        )
