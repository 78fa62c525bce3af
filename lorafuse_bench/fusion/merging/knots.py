"""KnOTS: the experts' updates brought to one basis by an SVD, and merged there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from lorafuse_bench.fusion.merging.spectra import eigen_of_square
from lorafuse_bench.fusion.papers import KNOTS
from lorafuse_bench.fusion.registry import register

_ROUNDING = 1e-6
"""What is below this share of the largest singular value is fp32 rounding: no direction, no coordinate, no vote."""
_SQUARABLE = 1e-3
"""Above this share, eigenvectors of the squares are as good as singular vectors, to 1e-6 and better."""


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
    Source: Stoica et al. 2025, section 4. The wide matrix is never built: eigenvectors of its square, of
    `min(out, Σ r_i)` rows, in fp64; coordinates in the experts' type. Cost: one LoRA of rank k.
    """

    merge: Literal["ties", "linear"] = option("ties", "how the experts' coordinates are merged")
    density: float = option(0.2, "share of each expert's coordinates kept by ties, exactly ⌈density · n⌉")
    trim: Literal["sv", "v"] = option("sv", "whether trimming weighs the entries by their singular value")
    weights: str | None = option(None, "λ_i in the order of the experts, such as 0.5/0.3/0.2")
    scale: float = option(1.0, "multiplies the merged update")

    name = "knots"
    paper = f"{KNOTS}, section 4"

    def __post_init__(self) -> None:
        check_density(self.name, self.density)

    @property
    def laws_broken(self) -> dict[Law, str]:
        broken = super().laws_broken
        if self.merge == "ties" and self.density < 1:
            trimmed = "its coordinates are trimmed to the largest"
            broken |= {"one expert is itself": trimmed, "copies of one expert are it": trimmed}
        return broken

    def default_weight(self, experts: int) -> float:
        return 1.0 if self.merge == "ties" else 1 / experts

    def fuse(self, pool: ExpertPool) -> Merged:
        return Merged(each_map(pool, partial(self._merge, self.expert_weights(pool))))

    def _merge(self, weights: Sequence[float], module: str, stack: ModuleStack) -> tuple[Tensor, Tensor]:
        u, s, parts = shared_basis(stack)
        if self.trim == "v":
            u, parts = u * s, (part / s[:, None].to(part.dtype) for part in parts)
        if self.merge == "ties":
            parts = (keep_largest(part, self.density, out=part) for part in parts)
            merged = disjoint_mean(parts, weights)
        else:
            merged = weighted_sum(parts, weights)
        return merged.to(stack.A.dtype), (self.scale * u).to(stack.B.dtype)


def shared_basis(stack: ModuleStack) -> tuple[Tensor, Tensor, Iterator[Tensor]]:
    """`U (out, k)`, `S (k,)` and one `S V_iᵀ (k, in)` per expert: the SVD of `[B_1 A_1, ..., B_N A_N]`.

    With `A_iᵀ = Q_i R_i` the wide matrix is the core `[B_1 R_1ᵀ, ...] (out, Σr)` times orthonormal rows: U are the
    eigenvectors of the core's square, in fp64, and `S V_iᵀ = Uᵀ B_i R_iᵀ Q_iᵀ` exactly, one at a time and in the
    experts' own type: between orthonormal ends no digits cancel. Where Σr < out the core is first reduced to the R of
    its QR. Updates that are all zero have one direction.
    """
    q_a, r_a = torch.linalg.qr(stack.A.double().transpose(1, 2))
    core = (stack.B.double() @ r_a.transpose(1, 2)).transpose(0, 1).flatten(1)
    q = None
    if core.shape[1] < len(core):
        q, core = torch.linalg.qr(core)
    u, s = _left_directions(core)
    rounding = max(_ROUNDING * float(s[0]), torch.finfo(s.dtype).tiny)
    k = max(1, int((s > rounding).sum()))
    u = u[:, :k]
    left = (u.T @ core).unflatten(1, r_a.shape[:2]).transpose(0, 1).to(stack.A.dtype)
    wholes = (b_i @ q_i.T for b_i, q_i in zip(left, q_a.to(left.dtype), strict=True))
    parts = (torch.hardshrink(whole, rounding, out=whole) for whole in wholes)
    return u if q is None else q @ u, s[:k].clamp(min=rounding), parts


def _left_directions(core: Tensor) -> tuple[Tensor, Tensor]:
    """`U (n, m)` and `S (m,)` of `core (n, Σr)`.

    Squares lose half the digits: where a direction that is more than rounding is small, by an SVD, which takes several
    times longer.
    """
    squares, u = eigen_of_square(core)
    s = squares.clamp(min=0).sqrt()
    if not ((s > _ROUNDING / 2 * s[0]) & (s < _SQUARABLE * s[0])).any():
        return u, s
    u, s, _ = torch.linalg.svd(core, full_matrices=False)
    return u, s
