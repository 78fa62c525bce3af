"""Magnitude pruning: the largest entries of each update, added."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from lorafuse_bench.fusion.base import option
from lorafuse_bench.fusion.merging.elementwise import Elementwise, keep_largest, weighted_sum
from lorafuse_bench.fusion.papers import PEFT
from lorafuse_bench.fusion.registry import register


@register
@dataclass(frozen=True)
class MagnitudePrune(Elementwise):
    """The weighted sum of the experts' largest entries: TIES without its election.

    `ΔW = scale · Σ λ_i trim(s_i B_i A_i) (out, in)`, trim keeping the `⌈density · n⌉` largest entries; `λ_i = 1/N`.
    Source: PEFT's `magnitude_prune`, equal to 3e-8 (fp32) on the same updates, which does this to the factors
    (`space=factors`) with `√(λ_i s_i)` on both. Cost: one full-rank update (products).
    """

    density: float = option(0.2, "share of each expert's entries kept, exactly ⌈density · n⌉")

    name = "magnitude_prune"
    paper = PEFT
    thinned = "it is trimmed to its largest entries"
    rank_matters = "zeros that fill a factor up count among the entries to keep"

    def default_weight(self, experts: int) -> float:
        return 1 / experts

    def thin(self, tensor: Tensor, expert: str, key: str) -> Tensor:
        return keep_largest(tensor, self.density, out=tensor)

    def join(self, tensors: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
        return weighted_sum(tensors, weights)
