"""TIES: trim, elect a sign, average those that agree."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from lorafuse_bench.fusion.base import option
from lorafuse_bench.fusion.merging.elementwise import Elementwise, disjoint_mean, keep_largest
from lorafuse_bench.fusion.papers import TIES
from lorafuse_bench.fusion.registry import register


@register
@dataclass(frozen=True)
class Ties(Elementwise):
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

    name = "ties"
    paper = f"{TIES}, section 3"
    thinned = "it is trimmed to its largest entries"
    rank_matters = "zeros that fill a factor up count among the entries to keep"

    def thin(self, tensor: Tensor, expert: str, key: str) -> Tensor:
        return keep_largest(tensor, self.density, out=tensor)

    def join(self, tensors: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
        return disjoint_mean(tensors, weights)
