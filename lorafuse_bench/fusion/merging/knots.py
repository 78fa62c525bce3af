"""KnOTS: the experts' updates brought to one basis by an SVD, and merged there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lorafuse_bench.experts import ExpertPool, ModuleStack
from lorafuse_bench.fusion.base import Adapter, Law, option
from lorafuse_bench.fusion.merging.elementwise import (
    Weighted,
    check_options,
    disjoint_mean,
    keep_largest,
    weighted_sum,
)
from lorafuse_bench.fusion.papers import KNOTS
from lorafuse_bench.fusion.registry import register

_ROUNDING = 1e-6
"""What is below this share of the largest singular value is fp32 rounding: no direction, no coordinate, no vote."""


@register
@dataclass(frozen=True)
class Knots(Weighted):
    """TIES, or a weighted sum, of the experts' coordinates in the shared basis of all their updates.

    `[s_1 B_1 A_1, ..., s_N B_N A_N] (out, N·in) = U Σ [V_1ᵀ, ..., V_Nᵀ]`; `ΔW = scale · U merge(Σ V_iᵀ)`,
    with `U Σ (out, k)`, `V_iᵀ (k, in)`, k <= Σ r_i: the result is one LoRA of rank k, exactly.
    `merge=ties` is that of `ties` on these `(k, in)` matrices with weights 1 (or `weights`); `merge=linear`
    sums them with weights 1/N, which equals `merge_uniform:space=full`. Election and mean treat each row alike
    whatever its singular value; trimming does not: `trim=sv` ranks the entries of `Σ V_iᵀ`, as the
    authors' released code does, `trim=v` those of `V_iᵀ`.
    Source: Stoica et al. 2025, section 4. The wide matrix is never built: QR of each factor, SVD of
    the `(Σ r_i, Σ r_i)` core, in fp64. Cost: one LoRA of rank k.
    """

    merge: Literal["ties", "linear"] = option("ties", "how the experts' coordinates are merged")
    density: float = option(0.2, "share of each expert's coordinates kept by ties, exactly ⌈density · n⌉")
    trim: Literal["sv", "v"] = option("sv", "whether trimming weighs the entries by their singular value")
    weights: str | None = option(None, "λ_i in the order of the experts, such as 0.5/0.3/0.2")
    scale: float = option(1.0, "multiplies the merged update")

    name = "knots"
    paper = f"{KNOTS}, section 4"

    def __post_init__(self) -> None:
        check_options(self.name, self.density, self.scale)

    @property
    def laws_broken(self) -> dict[Law, str]:
        broken = super().laws_broken
        if self.merge == "ties" and self.density < 1:
            trimmed = "its coordinates are trimmed to the largest"
            broken |= {"one expert is itself": trimmed, "copies of one expert are it": trimmed}
        return broken

    def default_weight(self, experts: int) -> float:
        return 1.0 if self.merge == "ties" else 1 / experts

    def fuse(self, pool: ExpertPool) -> Adapter:
        weights = self.expert_weights(pool)
        factors = {}
        for module, stack in pool.modules.items():
            u, s, parts = shared_basis(stack)
            if self.trim == "v":
                u, parts = u * s, (part / s[:, None] for part in parts)
            if self.merge == "ties":
                parts = (keep_largest(part, self.density) for part in parts)
                merged = disjoint_mean(parts, weights)
            else:
                merged = weighted_sum(parts, weights)
            factors[module] = (merged.to(stack.A.dtype), (self.scale * u).to(stack.B.dtype))
        return Adapter(factors)


def shared_basis(stack: ModuleStack) -> tuple[Tensor, Tensor, Iterator[Tensor]]:
    """`U (out, k)`, `S (k,)` and one `S V_iᵀ (k, in)` per expert: the SVD of `[B_1 A_1, ..., B_N A_N]`, in fp64.

    With `[B_1, ..., B_N] = Q R` and `A_iᵀ = Q_i R_i`, the wide matrix is `Q [R¹ R_1ᵀ, ...] diag(Q_iᵀ)`, R^i
    being the columns of R that belong to expert i; the core between the orthonormal ends has its
    singular values. The parts are made one at a time. Updates that are all zero have one direction.
    """
    q, r = torch.linalg.qr(stack.B.double().transpose(0, 1).flatten(1))
    q_a, r_a = torch.linalg.qr(stack.A.double().transpose(1, 2))
    blocks = r.unflatten(1, stack.A.shape[:2]).transpose(0, 1)
    core = blocks @ r_a.transpose(1, 2)
    u, s, vt = torch.linalg.svd(core.transpose(0, 1).flatten(1), full_matrices=False)
    rounding = max(_ROUNDING * float(s[0]), torch.finfo(s.dtype).tiny)
    k = max(1, int((s > rounding).sum()))
    right = (s[:k, None] * vt[:k]).unflatten(1, (len(core), core.shape[2])).transpose(0, 1)
    parts = (F.hardshrink(part @ basis.T, rounding) for part, basis in zip(right, q_a, strict=True))
    return q @ u[:, :k], s[:k].clamp(min=rounding), parts
