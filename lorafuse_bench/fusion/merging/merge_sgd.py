"""Merging with learned weights: one weight per expert, or per expert and block, or per expert and linear map."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion.base import Merged, Runtime, option, static_updates
from lorafuse_bench.fusion.fitted import WEIGHT_RATES, FittedMerge, Fitting, Parameters, Passes, Scope, groups
from lorafuse_bench.fusion.papers import TRADEOFFS
from lorafuse_bench.fusion.registry import register


@register
@dataclass(frozen=True)
class MergeSgd(FittedMerge):
    """One adapter from factors averaged with weights that are learned on all tasks at once.

    `λ_g (N,) = softmax(θ_g)`, `A* = Σ_i λ_gi A_i (r, in)`, `B* = Σ_i λ_gi s_i B_i (out, r)`, `ΔW = B* A*`
    (merge-before); θ starts at 0, which is `merge_uniform`. `scope=global`: one λ for all linear maps; `layer`:
    one per transformer block; `module` (ours): one per linear map. Learned by Adam on the tasks' loss, experts and
    base frozen, no task id. Source: trade-offs, section 4.3. Needs a fit. Cost: one LoRA.
    """

    scope: Scope = option(
        "global", "what shares its weights: all linear maps (global), a block (layer), or none"
    )

    name = "merge_sgd"
    paper = f"{TRADEOFFS}, section 4.3"

    @property
    def merge_before(self) -> bool:
        return True

    def start(self, runtime: Runtime) -> dict[str, Tensor]:
        """`logits`, θ of uniform weights, `(groups, N)`."""
        pool = runtime.pool
        return {"logits": torch.zeros(max(groups(pool, self.scope).values()) + 1, len(pool))}

    def budget(self, experts: int) -> Passes:
        return {}

    def fit(self, fitting: Fitting) -> dict[str, Tensor]:
        pool = fitting.runtime.pool
        return fitting.descend(
            self.start(fitting.runtime), lambda found: static_updates(self.merged(pool, found)), WEIGHT_RATES
        )

    def merged(self, pool: ExpertPool, parameters: Parameters) -> Merged:
        weights = parameters["logits"].softmax(-1)
        group = groups(pool, self.scope)
        return Merged({module: average(pool, module, weights[group[module]]) for module in pool.modules})


def average(pool: ExpertPool, module: str, weights: Tensor) -> tuple[Tensor, Tensor]:
    """`Σ λ_i A_i (r, in)` and `Σ λ_i s_i B_i (out, r)` with `weights (N,)`; absent experts count as zero."""
    stack = pool.modules[module]
    weights = weights.to(stack.A)
    return torch.einsum("n,nri->ri", weights, stack.A), torch.einsum("n,nor->or", weights, stack.B)
