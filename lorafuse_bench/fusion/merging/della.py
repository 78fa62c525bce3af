"""DELLA: entries dropped at random, small ones more often, then TIES' election."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion.base import option
from lorafuse_bench.fusion.merging.elementwise import Dropping, disjoint_mean, uniform_draw
from lorafuse_bench.fusion.papers import DELLA, TIES
from lorafuse_bench.fusion.registry import register


@register
@dataclass(frozen=True)
class Della(Dropping):
    """TIES' disjoint mean of updates whose small entries were dropped more often than large ones.

    In each row of `s_i B_i A_i (out, in)` the entry of rank j of n, from the smallest, is kept with probability
    `q_j = density + window · ((j - 1/2)/n - 1/2)` and divided by it, so that the expectation is that of no dropping
    and `density` of the entries stay (MagPrune); then `γ = sign(Σ λ_i T_i)` and
    `ΔW = scale · Σ_{i: sign(λ_i T_i) = γ} λ_i T_i / Σ_{same i} |λ_i|`. Masks are drawn as in `dare`.
    `window=0` is `dare_ties`. Source: Deep et al. 2024, with p = 1 - density, ε = window; ties of magnitude
    rank in the order of the columns. Under one draw the authors' code, at epsilon = window (n - 1)/2n, gives the same
    to 7e-8, of fp32. Cost: one full-rank update (products).
    """

    window: float = option(
        0.2, "how far the probabilities of a row's largest and smallest entry lie apart (ε)"
    )

    name = "della"
    paper = f"{DELLA}; {TIES}"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.density < 1 and not 0 <= self.window / 2 < min(self.density, 1 - self.density) + 1e-9:
            raise LorafuseError(
                f"method 'della': window={self.window} must leave density ± window/2 between 0 and 1."
            )

    def thin(self, tensor: Tensor, expert: str, key: str) -> Tensor:
        if self.density in (0, 1):
            return self.density * tensor
        order = tensor.abs().argsort(stable=True, dim=-1)
        rank = torch.empty_like(order).scatter_(-1, order, torch.arange(order.shape[-1]).expand_as(order))
        kept = self.density + self.window * ((rank + 0.5) / rank.shape[-1] - 0.5)
        draw = uniform_draw(tensor, self.seed, expert, key)
        return torch.where(draw < kept, tensor / kept, 0)

    def join(self, tensors: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
        return disjoint_mean(tensors, weights)
