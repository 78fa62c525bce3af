"""DARE-TIES: random dropping in place of trimming, then TIES' election."""

from __future__ import annotations

from dataclasses import dataclass

from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion.base import Adapter, Law, Merge, option
from lorafuse_bench.fusion.merging.elementwise import (
    SPACE_HELP,
    Space,
    check_options,
    disjoint_mean,
    drop_and_rescale,
    expert_weights,
    merge_tensors,
)
from lorafuse_bench.fusion.papers import DARE, TIES
from lorafuse_bench.fusion.registry import register


@register
@dataclass(frozen=True)
class DareTies(Merge):
    """TIES' disjoint mean of updates that DARE dropped and rescaled.

    With `T_i = m_i ⊙ (s_i B_i A_i) / density (out, in)`, the mask drawn as in `dare`:
    `γ = sign(Σ λ_i T_i)`; `ΔW = scale · Σ_{i: sign(λ_i T_i) = γ} λ_i T_i / Σ_{same i} |λ_i|`, entry by entry.
    As the mean leaves dropped entries out of its count, the rescaling is not undone: entries that one
    expert alone kept are `1/density` too large. That is the published combination.
    Source: Yu et al. 2024, section 3.2 (DARE before other merges); Yadav et al. 2023, section 3.
    `space=factors` does the same to the `A_i` and the `s_i B_i`, then multiplies, as PEFT does with
    `√(λ_i s_i)` on both. Cost: one full-rank update (products).
    """

    density: float = option(0.5, "probability that an entry is kept (the paper searches .1 to .9)")
    weights: str | None = option(
        None, "λ_i in the order of the experts, such as 0.5/0.3/0.2; equal by default"
    )
    scale: float = option(1.0, "multiplies the merged update")
    seed: int = option(0, "seed of the masks")
    space: Space = option("products", SPACE_HELP)

    name = "dare_ties"
    paper = f"{DARE}, section 3.2; {TIES}, section 3"

    def __post_init__(self) -> None:
        check_options(self.name, self.density, self.scale)

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
        weights = expert_weights(self.name, self.weights, pool, default=1.0)
        return merge_tensors(
            pool,
            self.space,
            sparsify=lambda tensor, expert, key: drop_and_rescale(
                tensor, self.density, self.seed, expert, key
            ),
            combine=lambda tensors: disjoint_mean(tensors, weights),
            scale=self.scale,
        )
