"""SVD merge: the best rank-r approximation of the averaged update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion.base import Law, Merge, Merged, option
from lorafuse_bench.fusion.merging.spectra import eigen_of_square
from lorafuse_bench.fusion.papers import RETHINKING
from lorafuse_bench.fusion.registry import register

_PART = 128
"""Columns of factors that are converted to fp64 at a time."""


@register
@dataclass(frozen=True)
class SvdMerge(Merge):
    """The truncated SVD of the mean update.

    `(1/N) Σ s_i B_i A_i = U Σ Vᵀ`; `A = V_rᵀ (r, in)`, `B = U_r Σ_r (out, r)`, scaling applied once.
    The paper prints the two factors in an order that does not multiply; this is the PEFT order.
    Source: rethinking LoRA merging, section 3.4 (3). Cost: one LoRA of rank r. The `out x in` matrix
    is never built: QR of the stacked factors, SVD of their `(Σr, Σr)` core.
    """

    rank: int | None = option(None, "rank of the merged adapter; the experts' largest rank by default")

    name = "svd"
    paper = f"{RETHINKING}, section 3.4"

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise LorafuseError(f"method 'svd': rank={self.rank} must be at least 1.")

    @property
    def laws_broken(self) -> dict[Law, str]:
        if self.rank is None:
            return {}
        cut = "its rank may exceed the one asked for"
        return {"one expert is itself": cut, "copies of one expert are it": cut}

    def check(self, pool: ExpertPool) -> None:
        super().check(pool)
        for module, stack in pool.modules.items():
            full = min(len(pool) * stack.A.shape[1], *stack.shape)
            if self.rank is not None and self.rank > full:
                raise LorafuseError(
                    f"method 'svd': rank={self.rank} exceeds {full}, the largest possible rank at {module}. Lower it."
                )

    def fuse(self, pool: ExpertPool) -> Merged:
        factors = {}
        for module, stack in pool.modules.items():
            rank = self.rank or max(stack.ranks)
            # In this order a pool's factors lie in memory: they are not copied.
            rows, columns = stack.A.transpose(0, 1).flatten(0, 1), stack.B.permute(2, 0, 1).flatten(0, 1)
            a, b = truncated_svd(rows, columns.T, rank)
            factors[module] = (a, b / len(pool))
        return Merged(factors)


def truncated_svd(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Best rank-`rank` factors of `b @ a`, for `a (R, in)`, `b (out, R)`: `(V_rᵀ (r, in), U_r Σ_r (out, r))`.

    With `b = Q_b R_b` and `aᵀ = Q_a R_a`, `b a = Q_b C Q_aᵀ` with the core `C = R_b R_aᵀ = U Σ Vᵀ`; a side that has
    no more rows than columns is its own R. V are the eigenvectors of `CᵀC`, and `U Σ = C V` (the other way round
    where C is wide): in fp64 exact for all directions above 1e-8 of the largest, which is what fp32 factors can
    tell. The QR of stacked, nearly parallel factors would lose digits in fp32 too. The Q's are not formed but
    applied to the r columns wanted.
    """
    q_b, r_b = _reduced(b)
    q_a, r_a = _reduced(a.T)
    core = _product(r_b, r_a.T)
    wide = len(core) < core.shape[1]
    if wide:
        core = core.T
    _, right = eigen_of_square(core.T, rank)
    left = core @ right
    if wide:
        sigma = left.norm(dim=0)
        left, right = right * sigma, left / sigma.clamp(min=torch.finfo(sigma.dtype).tiny)
    return q_a(right).T.to(a.dtype), q_b(left).to(b.dtype)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """`left (n, R) @ right (R, m)` in fp64. A part is converted at a time, so that it stays in the cache."""
    product = torch.zeros(len(left), right.shape[1], dtype=torch.float64, device=left.device)
    for columns, rows in zip(left.split(_PART, dim=1), right.split(_PART), strict=True):
        product.addmm_(columns.double(), rows.double())
    return product


def _reduced(x: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """`y -> Q y` and R of `x (m, n)`: the reduced QR in fp64 where m > n, with `R (n, n)`; else the identity and x."""
    rows, columns = x.shape
    if rows <= columns:
        return lambda y: y, x
    reflectors, tau = torch.geqrf(x.double())

    def apply(y: Tensor) -> Tensor:
        return torch.ormqr(reflectors, tau, F.pad(y, (0, 0, 0, rows - columns)))

    return apply, reflectors[:columns].triu()
