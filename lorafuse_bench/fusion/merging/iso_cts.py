"""Iso-CTS: as Iso-C, with the weakest common directions given to single experts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ModuleStack
from lorafuse_bench.fusion.base import option
from lorafuse_bench.fusion.merging.iso_c import IsoC
from lorafuse_bench.fusion.merging.spectra import nearest_orthogonal, product_svd, summed
from lorafuse_bench.fusion.registry import register


@register
@dataclass(frozen=True)
class IsoCts(IsoC):
    """The leading directions of the experts' sum, and each expert's own beside them, all equally strong.

    `Σ_i ΔW_i = U Σ Vᵀ` of rank R, of which the first k triplets stay. What they leave of each expert,
    `ΔW_i − U_k U_kᵀ ΔW_i`, gives its first m triplets. `m = round((R − ⌊common · R⌋) / N)`, at most ⌊R/N⌋, and
    `k = R − N m`, so that they are R together. All the vectors beside each other, `U* (out, R)` and V*, are made
    orthogonal as in `tsv`; `ΔW = scale · σ̄ U⊥ V⊥ᵀ`, σ̄ the mean of the R singular values. The paper's R is
    min(out, in); of LoRAs it is the rank of their sum. `common=1` is Iso-C.
    Source: Marczak et al. 2025 (Iso-CTS); of updates whose sum has full rank it is the authors' code to 5e-14.
    Cost: one LoRA of rank R <= `Σ r_i`.
    """

    common: float = option(0.8, "share of the directions that are the sum's (the paper's k/r)")

    name = "iso_cts"

    def __post_init__(self) -> None:
        if not 0 <= self.common <= 1:
            raise LorafuseError(f"method 'iso_cts': common={self.common} must lie between 0 and 1.")

    def _merge(self, module: str, stack: ModuleStack) -> tuple[Tensor, Tensor]:
        u, s, vt = self._directions(stack, len(stack.A))
        b = self.scale * s.mean() * nearest_orthogonal(u)
        return nearest_orthogonal(vt.T).T.to(stack.A.dtype), b.to(stack.B.dtype)

    def _directions(self, stack: ModuleStack, experts: int) -> tuple[Tensor, Tensor, Tensor]:
        """The common triplets and those of each expert, side by side: `(out, R)`, `(R,)`, `(R, in)`."""
        u, s, vt = product_svd(*summed(stack))
        of_experts = len(s) - int(round(self.common * len(s), 6))
        own = min(round(of_experts / experts), len(s) // experts)
        k = len(s) - experts * own
        left = u[:, :k]
        parts = [(left, s[:k], vt[:k])]
        for a, b in zip(stack.A.double(), stack.B.double(), strict=True):
            u_i, s_i, vt_i = product_svd(a, b - left @ (left.T @ b))
            parts.append((u_i[:, :own], s_i[:own], vt_i[:own]))
        lefts, values, rights = zip(*parts, strict=True)
        return torch.cat(lefts, 1), torch.cat(values), torch.cat(rights)
