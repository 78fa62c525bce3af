"""SVD merge: the best rank-r approximation of the averaged update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool, ModuleStack
from lorafuse_bench.fusion.base import Law, Merge, Merged, option
from lorafuse_bench.fusion.merging.leading import leading_svd
from lorafuse_bench.fusion.merging.maps import each_map
from lorafuse_bench.fusion.papers import RETHINKING
from lorafuse_bench.fusion.registry import register


@register
@dataclass(frozen=True)
class SvdMerge(Merge):
    """The truncated SVD of the mean update.

    `(1/N) Σ s_i B_i A_i = U Σ Vᵀ`; `A = V_rᵀ (r, in)`, `B = U_r Σ_r (out, r)`, scaling applied once.
    The paper prints the two factors in an order that does not multiply; this is the PEFT order.
    Source: rethinking LoRA merging, section 3.4 (3). Cost: one LoRA of rank r. The `out x in` matrix is
    built only where Σr exceeds half of its smaller side: else QR of the stacked factors, SVD of their `(Σr, Σr)` core.
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
        return Merged(each_map(pool, self._merge))

    def _merge(self, module: str, stack: ModuleStack) -> tuple[Tensor, Tensor]:
        # In this order a pool's factors lie in memory: they are not copied.
        rows, columns = stack.A.transpose(0, 1).flatten(0, 1), stack.B.permute(2, 0, 1).flatten(0, 1)
        a, b = truncated_svd(rows, columns.T, self.rank or max(stack.ranks))
        return a, b / len(stack.A)


def truncated_svd(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Best rank-`rank` factors of `b @ a`, for `a (R, in)`, `b (out, R)`: `(V_rᵀ (r, in), U_r Σ_r (out, r))`.

    Where the factors are thin, `b = Q_b R_b`, `aᵀ = Q_a R_a` and the SVD of the core `R_b R_aᵀ (R, R)` are less work
    than that of the product. The QR of stacked, nearly parallel factors would lose digits in fp32. The Q's are not
    formed but applied to the r columns wanted.
    """
    if 2 * len(a) > min(len(b), a.shape[1]):
        u, s, v = leading_svd(b, a, rank)
    else:
        (q_b, r_b), (q_a, r_a) = _reduced(b), _reduced(a.T)
        u, s, v = leading_svd(r_b, r_a.T, rank)
        u, v = q_b(u), q_a(v)
    return v.T.to(a.dtype), (u * s).to(b.dtype)


def _reduced(x: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """`y -> Q y` and `R (n, n)` of `x (m, n)`, m at least n: the reduced QR in fp64."""
    rows, columns = x.shape
    reflectors, tau = torch.geqrf(x.double())

    def apply(y: Tensor) -> Tensor:
        return torch.ormqr(reflectors, tau, F.pad(y, (0, 0, 0, rows - columns)))

    return apply, reflectors[:columns].triu()
