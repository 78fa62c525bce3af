"""SpectR: the length of each expert's own update decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor

from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion.base import FusionMethod, Runtime, option
from lorafuse_bench.fusion.papers import SPECTR
from lorafuse_bench.fusion.registry import register
from lorafuse_bench.fusion.routing.gates import AtMost, expert_svd, lengths_of, mixed, uniform_top_k
from lorafuse_bench.layers import GatedUpdate, Update


@register
@dataclass(frozen=True)
class Spectr(FusionMethod):
    """Per token and linear map: the mean of the k experts whose updates of the input are longest.

    With `s_i B_i A_i = U_i S_i V_iᵀ`: `A*_i = S_i V_iᵀ (r, in)`, `B*_i = U_i (out, r)`, score
    `‖A*_i x‖ = ‖s_i B_i A_i x‖` (eq 6-9); `y = Wx + (1/k) Σ_top-k B*_i A*_i x` (eq 13).
    `merge=two_step` is eq 10-12, `(1/k Σ B*_i)(1/k Σ A*_i x)`: it depends on the singular vectors'
    arbitrary signs, fixed here so that the largest entry of each right vector is positive.
    `score=subspace` ranks by `‖V_iᵀ x‖`, as the authors' released code does, with `A* = V_iᵀ`,
    `B* = U_i S_i`. By default no factor is made: with `s_i² B_iᵀ B_i = C_iᵀ C_i` the score is `‖C_i A_i x‖`.
    Experts that do not adapt a module are no candidates there.
    Source: SpectR, section 3 and appendix A. Cost: two matmuls of all experts' ranks per token.
    """

    k: int = option(AtMost(4), "experts averaged per token; the paper's 4, or all of fewer")
    score: Literal["sigma", "subspace"] = option(
        "sigma", "length of the update, or of its unscaled projection"
    )
    merge: Literal["after", "two_step"] = option(
        "after", "average the products (eq 13) or the factors (eq 10-12)"
    )

    name = "spectr"
    family = "routing"
    absent_experts = "no candidates"
    paper = f"{SPECTR}, section 3"

    def check(self, pool: ExpertPool) -> None:
        super().check(pool)
        mixed(self.name, self.k, len(pool))

    def updates(self, runtime: Runtime) -> Mapping[str, Update]:
        k = mixed(self.name, self.k, len(runtime.pool))
        updates: dict[str, Update] = {}
        weigh = partial(uniform_top_k, k=k)
        for module, stack in runtime.pool.modules.items():
            absent = [rank == 0 for rank in stack.ranks]
            if self.score == "sigma" and self.merge == "after":  # the products alone tell
                inner = lengths_of(stack)
                updates[module] = GatedUpdate(stack.A, stack.B, _length, weigh, absent, inner=inner)
                continue
            u, s, vt = expert_svd(stack)
            a, b = (s[..., None] * vt, u) if self.score == "sigma" else (vt, u * s[:, None, :])
            merge: Literal["after", "before"] = "before" if self.merge == "two_step" else "after"
            updates[module] = GatedUpdate(a, b, _length, weigh, absent, merge)
        return updates


def _length(hidden: Tensor, probed: Tensor) -> Tensor:
    """`‖A*_i x‖` of each expert."""
    return hidden.square().sum(-2).sqrt()
