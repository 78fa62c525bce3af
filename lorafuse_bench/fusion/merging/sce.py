"""SCE: select where the experts differ, calculate their weights, erase minorities."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lorafuse_bench.experts import ExpertPool, ModuleStack
from lorafuse_bench.fusion.base import Law, Merge, Merged, option
from lorafuse_bench.fusion.merging.elementwise import (
    check_density,
    keep_largest,
    products,
    weighted_sum,
)
from lorafuse_bench.fusion.merging.maps import each_map
from lorafuse_bench.fusion.papers import SCE
from lorafuse_bench.fusion.registry import register


@register
@dataclass(frozen=True)
class Sce(Merge):
    """The experts' updates at the entries where they vary most, weighted by their energy, under an elected sign.

    Select: of the entries `(out, in)` of a map, the `⌈density · n⌉` whose variance over the N updates is largest.
    Calculate: `η_i = ‖δ_i‖² / Σ_j ‖δ_j‖²` over those. Erase: the sign of `Σ δ_i` is elected;
    `ΔW = scale · Σ η_i δ_i / Σ η_i` over the experts that have it, entry by entry. Entries on which all agree have
    variance 0 and are never selected below density 1. The division is the released code's, mergekit's `sce`,
    which this equals to 3e-16 where `density · n` is whole.
    Source: Wan et al. 2024 (SCE). Cost: one full-rank update.
    """

    density: float = option(0.1, "share of a map's entries selected (the paper's 10%)")
    scale: float = option(1.0, "multiplies the merged update")

    name = "sce"
    paper = SCE

    def __post_init__(self) -> None:
        check_density(self.name, self.density)

    @property
    def laws_broken(self) -> dict[Law, str]:
        if self.density == 1:
            return {}
        agreed = "what all experts agree on is not selected"
        return {"one expert is itself": agreed, "copies of one expert are it": agreed}

    def fuse(self, pool: ExpertPool) -> Merged:
        return Merged(dense=each_map(pool, self._merge))

    def _merge(self, module: str, stack: ModuleStack) -> Tensor:
        """Each step makes the updates again, so that they are not all held at once."""
        selected = self._selected(stack)
        energies = [float((delta * selected).double().square().sum()) for delta in products(stack)]
        total = sum(energies)
        elected = weighted_sum(products(stack), [1.0] * len(energies)).sign() * selected
        above, below = torch.zeros_like(elected), torch.zeros_like(elected)
        for delta, energy in zip(products(stack), energies, strict=True):
            agreeing = (delta * elected).clamp_(min=0)  # |δ_i| where it has the elected sign
            above.add_(agreeing, alpha=energy / (total or 1))
            below.add_(agreeing.sign_(), alpha=energy / (total or 1))
        return torch.where(below > 0, self.scale * elected * above / below, 0)

    def _selected(self, stack: ModuleStack) -> Tensor:
        """1 at the entries of largest variance, 0 elsewhere."""
        if self.density == 1:
            return torch.ones(())
        mean = sum(products(stack)) / len(stack.A)
        variance = sum((delta - mean).square() for delta in products(stack))
        assert isinstance(variance, Tensor)
        return (keep_largest(variance, self.density) > 0).to(variance.dtype)
