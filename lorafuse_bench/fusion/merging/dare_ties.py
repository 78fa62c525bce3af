"""DARE-TIES: random dropping in place of trimming, then TIES' election."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from lorafuse_bench.fusion.merging.elementwise import Dropping, disjoint_mean
from lorafuse_bench.fusion.papers import DARE, TIES
from lorafuse_bench.fusion.registry import register


@register
@dataclass(frozen=True)
class DareTies(Dropping):
    """TIES' disjoint mean of updates that DARE dropped and rescaled.

    With `T_i = m_i ⊙ (s_i B_i A_i) / density (out, in)`, the mask drawn as in `dare`:
    `γ = sign(Σ λ_i T_i)`; `ΔW = scale · Σ_{i: sign(λ_i T_i) = γ} λ_i T_i / Σ_{same i} |λ_i|`, entry by entry.
    As the mean leaves dropped entries out of its count, the rescaling is not undone: entries that one
    expert alone kept are `1/density` too large. That is the published combination.
    Source: Yu et al. 2024, section 3.2 (DARE before other merges); Yadav et al. 2023, section 3.
    `space=factors` does the same to the `A_i` and the `s_i B_i`, then multiplies, as PEFT does with
    `√(λ_i s_i)` on both. Cost: one full-rank update (products).
    """

    name = "dare_ties"
    paper = f"{DARE}, section 3.2; {TIES}, section 3"

    def join(self, tensors: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
        return disjoint_mean(tensors, weights)
