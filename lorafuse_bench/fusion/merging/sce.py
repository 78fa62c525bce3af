"""SCE: select where the experts differ, calculate their weights, erase minorities."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lorafuse_bench.experts import ExpertPool, ModuleStack
from lorafuse_bench.fusion.base import Adapter, Law, Merge, option
from lorafuse_bench.fusion.merging.elementwise import check_options, disjoint_mean, keep_largest, products
from lorafuse_bench.fusion.papers import SCE
from lorafuse_bench.fusion.registry import register


@register
@dataclass(frozen=True)
class Sce(Merge):
    """The experts' updates at the entries where they vary most, weighted by their energy, under an elected sign.

    Select: of the entries `(out, in)` of a map, the `⌈density · n⌉` whose variance over the N updates is largest.
    Calculate: `η_i = ‖δ_i‖² / Σ_j ‖δ_j‖²` over those. Erase: the sign of `Σ η_i δ_i` is elected;
    `ΔW = scale · Σ η_i δ_i / Σ η_i` over the experts that have it, entry by entry. Entries on which all agree have
    variance 0 and are never selected below density 1. The paper weighs without the division; this is the form that
    its authors released in mergekit, but the sign there is that of the sum without weights.
    Source: Wan et al. 2024, section 3.3. Cost: one full-rank update.
    """

    density: float = option(0.1, "share of a map's entries selected (the paper's 10%)")
    scale: float = option(1.0, "multiplies the merged update")

    name = "sce"
    paper = f"{SCE}, section 3.3"

    def __post_init__(self) -> None:
        check_options(self.name, self.density, self.scale)

    @property
    def laws_broken(self) -> dict[Law, str]:
        if self.density == 1:
            return {}
        agreed = "what all experts agree on is not selected"
        return {"one expert is itself": agreed, "copies of one expert are it": agreed}

    def fuse(self, pool: ExpertPool) -> Adapter:
        return Adapter(dense={module: self._merge(stack) for module, stack in pool.modules.items()})

    def _merge(self, stack: ModuleStack) -> Tensor:
        selected = self._selected(stack)
        energies = [float((delta * selected).double().square().sum()) for delta in products(stack)]
        total = sum(energies)
        weights = [energy / total if total else 1 / len(energies) for energy in energies]
        return self.scale * disjoint_mean((delta * selected for delta in products(stack)), weights)

    def _selected(self, stack: ModuleStack) -> Tensor:
        """1 at the entries of largest variance, 0 elsewhere; the updates are made twice rather than held at once."""
        if self.density == 1:
            return torch.ones(())
        mean = sum(products(stack)) / len(stack.A)
        variance = sum((delta - mean).square() for delta in products(stack))
        assert isinstance(variance, Tensor)
        return (keep_largest(variance, self.density) > 0).to(variance.dtype)
