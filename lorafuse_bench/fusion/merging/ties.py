"""TIES: trim, elect a sign, average those that agree."""

from __future__ import annotations

from dataclasses import dataclass

from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion.base import Adapter, Law, Merge, option
from lorafuse_bench.fusion.merging.elementwise import (
    SPACE_HELP,
    Space,
    check_options,
    disjoint_mean,
    expert_weights,
    keep_largest,
    merge_tensors,
)
from lorafuse_bench.fusion.papers import TIES
from lorafuse_bench.fusion.registry import register


@register
@dataclass(frozen=True)
class Ties(Merge):
    """The disjoint mean of the experts' largest entries, under an elected sign.

    With `T_i = trim(s_i B_i A_i) (out, in)`, the `⌈density · n⌉` largest entries of each:
    `γ = sign(Σ λ_i T_i)`; `ΔW = scale · Σ_{i: sign(λ_i T_i) = γ} λ_i T_i / Σ_{same i} |λ_i|`, entry by entry.
    Scalings `s_i` and weights `λ_i` count before the election. With equal weights this is the paper's
    mean; the division by `Σ|λ_i|` makes an adapter at .5 and .5 itself.
    Source: Yadav et al. 2023, section 3 and algorithm 1. We trim per linear map, the paper over the whole model.
    `space=factors` does the same to the `A_i` and the `s_i B_i`, then multiplies; PEFT does that too, but
    elects before weighting and divides by a plain count. Cost: one full-rank update (products).
    """

    density: float = option(
        0.2, "share of each expert's entries kept, exactly ⌈density · n⌉ (the paper's 20%)"
    )
    weights: str | None = option(
        None, "λ_i in the order of the experts, such as 0.5/0.3/0.2; equal by default"
    )
    scale: float = option(1.0, "multiplies the merged update (the paper's λ)")
    space: Space = option("products", SPACE_HELP)

    name = "ties"
    paper = f"{TIES}, section 3"

    def __post_init__(self) -> None:
        check_options(self.name, self.density, self.scale)

    @property
    def merge_before(self) -> bool:
        return self.space == "factors"

    @property
    def laws_broken(self) -> dict[Law, str]:
        broken = super().laws_broken
        if self.density < 1:
            broken["one expert is itself"] = "it is trimmed to its largest entries"
            if self.space == "factors":
                broken["unequal ranks"] = "zeros that fill a factor up count among the entries to keep"
        return broken

    def fuse(self, pool: ExpertPool) -> Adapter:
        weights = expert_weights(self.name, self.weights, pool, default=1.0)
        return merge_tensors(
            pool,
            self.space,
            sparsify=lambda tensor, expert, key: keep_largest(tensor, self.density),
            combine=lambda tensors: disjoint_mean(tensors, weights),
            scale=self.scale,
        )
