"""Core Space: the experts' updates as small cores between common bases, merged there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from lorafuse_bench.experts import ExpertPool, ModuleStack
from lorafuse_bench.fusion.base import Law, Merged, option
from lorafuse_bench.fusion.merging.elementwise import (
    Weighted,
    check_density,
    disjoint_mean,
    keep_largest,
    weighted_sum,
)
from lorafuse_bench.fusion.merging.maps import each_map
from lorafuse_bench.fusion.merging.spectra import rank_of
from lorafuse_bench.fusion.papers import CORE_SPACE
from lorafuse_bench.fusion.registry import register


@register
@dataclass(frozen=True)
class CoreSpace(Weighted):
    """TIES, or a weighted sum, of the experts' cores in bases that all factors share.

    `[s_1 B_1, ..., s_N B_N] = U_B S Wᵀ` gives the basis `U_B (out, k_B)`, `[A_1; ...; A_N] = W' S' V_Aᵀ` the basis
    `V_Aᵀ (k_A, in)`; the cores `M_i = U_Bᵀ s_i B_i A_i V_A (k_B, k_A)` hold each update without loss. `ΔW = scale ·
    U_B merge(M_1, ..., M_N) V_Aᵀ`; `merge=ties` is that of `ties` on the cores, with weights 1; `merge=linear` sums
    them with weights 1/N, which equals `merge_uniform:space=full`. Singular vectors of the stacked factors depend on
    how each update is split into A and B, and with them what TIES elects. Source: Panariello et al. 2025; the authors'
    code with as many entries kept gives the same to 2e-14. Cost: one LoRA of rank `min(k_A, k_B)` <= `Σ r_i`.
    """

    merge: Literal["ties", "linear"] = option("ties", "how the cores are merged")
    density: float = option(0.2, "share of each core's entries kept by ties, exactly ⌈density · n⌉")
    weights: str | None = option(None, "λ_i in the order of the experts, such as 0.5/0.3/0.2")
    scale: float = option(1.0, "multiplies the merged update")

    name = "core_space"
    paper = CORE_SPACE

    def __post_init__(self) -> None:
        check_density(self.name, self.density)

    @property
    def laws_broken(self) -> dict[Law, str]:
        broken = super().laws_broken
        if self.merge == "ties":
            broken["gauge (A, B) -> (RA, BR⁻¹)"] = "its bases are of the factors, not of the updates"
            if self.density < 1:
                trimmed = "its core is trimmed to the largest entries"
                broken |= {"one expert is itself": trimmed, "copies of one expert are it": trimmed}
        return broken

    def default_weight(self, experts: int) -> float:
        return 1.0 if self.merge == "ties" else 1 / experts

    def fuse(self, pool: ExpertPool) -> Merged:
        return Merged(each_map(pool, partial(self._merge, self.expert_weights(pool))))

    def _merge(self, weights: Sequence[float], module: str, stack: ModuleStack) -> tuple[Tensor, Tensor]:
        a, b = stack.A.double(), stack.B.double()
        left, right = basis(b.transpose(0, 1).flatten(1)), basis(a.flatten(0, 1).T)
        cores = ((left.T @ b_i) @ (a_i @ right) for a_i, b_i in zip(a, b, strict=True))
        if self.merge == "ties":
            merged = disjoint_mean((keep_largest(core, self.density) for core in cores), weights)
        else:
            merged = weighted_sum(cores, weights)
        return _narrow(right.T.to(stack.A.dtype), left.to(stack.B.dtype), self.scale * merged)


def basis(x: Tensor) -> Tensor:
    """The left singular vectors `(n, k)` of `x (n, R)`, k its rank."""
    u, s, _ = torch.linalg.svd(x, full_matrices=False)
    return u[:, : rank_of(s)]


def _narrow(right: Tensor, left: Tensor, core: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of `left core right`, the core taken to the wider side."""
    core = core.to(right.dtype)
    return (right, left @ core) if len(right) <= left.shape[1] else (core @ right, left)
