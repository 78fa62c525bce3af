"""Iso-C: the sum of the updates with all directions equally strong."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lorafuse_bench.experts import ExpertPool, ModuleStack
from lorafuse_bench.fusion.base import Law, Merge, Merged, option
from lorafuse_bench.fusion.merging.maps import each_map
from lorafuse_bench.fusion.merging.spectra import product_svd, summed
from lorafuse_bench.fusion.papers import ISO
from lorafuse_bench.fusion.registry import register


@register
@dataclass(frozen=True)
class IsoC(Merge):
    """The sum of the experts' updates, its singular values replaced by their mean.

    `Σ_i s_i B_i A_i = U Σ Vᵀ`; `ΔW = scale · σ̄ U Vᵀ`, `σ̄ = (1/k) Σ_j σ_j`, `U (out, k)`, `Vᵀ (k, in)`. The paper
    takes all min(out, in) directions of full-rank updates; a sum of LoRAs has none beyond its rank k, so the mean
    is over those k. Source: Marczak et al. 2025 (Iso-C); of updates whose sum has full rank it is the authors' code
    to 2e-14. Cost: one LoRA of rank k <= `Σ r_i`.
    """

    scale: float = option(1.0, "multiplies the merged update (the paper's α)")

    name = "iso_c"
    paper = ISO

    @property
    def laws_broken(self) -> dict[Law, str]:
        flat = "its singular values become equal"
        return {"one expert is itself": flat, "copies of one expert are it": flat}

    def fuse(self, pool: ExpertPool) -> Merged:
        return Merged(each_map(pool, self._merge))

    def _merge(self, module: str, stack: ModuleStack) -> tuple[Tensor, Tensor]:
        u, s, vt = product_svd(*summed(stack))
        return vt.to(stack.A.dtype), (self.scale * s.mean() * u).to(stack.B.dtype)
