"""Model Breadcrumbs: neither the largest nor the smallest entries of each update, added."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion.base import Law, option
from lorafuse_bench.fusion.merging.elementwise import Elementwise, keep_largest, weighted_sum
from lorafuse_bench.fusion.papers import BREADCRUMBS
from lorafuse_bench.fusion.registry import register


@register
@dataclass(frozen=True)
class Breadcrumbs(Elementwise):
    """The weighted sum of the experts' updates after outliers and small entries are removed.

    `ΔW = scale · Σ λ_i m_i ⊙ (s_i B_i A_i) (out, in)`: of each update's n entries the mask drops the `⌈outliers · n⌉`
    largest, and keeps the `⌈density · n⌉` largest of the others. `λ_i = 1`, and `scale` is the paper's α. In the
    paper's terms `β = 1 - density - outliers`, `γ = 1 - outliers`. Masks are of one linear map each, as the paper's
    are of a layer. Source: Davari and Belilovsky 2024. Where both shares of n are whole it equals mergekit's
    `breadcrumbs`, and the authors' code, whose masks are of one row each, on maps of one row, bit for bit.
    `space=factors` does the same to the factors. Cost: one full-rank update (products).
    """

    density: float = option(0.15, "share of each expert's entries kept")
    outliers: float = option(0.01, "share of each expert's entries, the largest, that are dropped first")

    name = "breadcrumbs"
    paper = BREADCRUMBS
    thinned = "its largest and its smallest entries are dropped"
    rank_matters = "zeros that fill a factor up count among its entries"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.outliers <= 1 - self.density:
            raise LorafuseError(
                f"method 'breadcrumbs': outliers={self.outliers} must lie between 0 and 1 - density."
            )

    @property
    def laws_broken(self) -> dict[Law, str]:
        return super().laws_broken | {"copies of one expert are it": "weights are 1, not 1/N"}

    def thin(self, tensor: Tensor, expert: str, key: str) -> Tensor:
        return keep_largest(tensor - keep_largest(tensor, self.outliers), self.density)

    def join(self, tensors: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
        return weighted_sum(tensors, weights)
