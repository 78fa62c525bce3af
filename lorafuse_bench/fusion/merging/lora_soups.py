"""LoRA Soups (CAT): the experts' updates added with weights that are learned for every layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion.base import Merged, Runtime, option, static_updates
from lorafuse_bench.fusion.fitted import WEIGHT_RATES, FittedMerge, Fitting, Parameters, Passes, Scope, groups
from lorafuse_bench.fusion.papers import LORA_SOUPS
from lorafuse_bench.fusion.registry import register


@register
@dataclass(frozen=True)
class LoraSoups(FittedMerge):
    """The weighted sum of the experts' updates, one learned weight per expert and layer, kept exactly as one LoRA.

    `ΔW = Σ_i α_gi s_i B_i A_i`, as `A = [A_1; ...; A_N] (Σr, in)`, `B = [α_g1 s_1 B_1, ..., α_gN s_N B_N] (out, Σr)`;
    the α are any numbers, not shares, and start at 1/N (ours). `scope=module`: α of its own for every linear map, as
    the paper's layers; `layer`: for every transformer block; `global`: one for all. The merge-after twin of
    `merge_sgd`. Learned by Adam on the tasks' loss, experts and base frozen.
    Source: Prabhakar et al. 2024 (CAT). Needs a fit. Cost: one LoRA of rank `Σ r_i`.
    """

    scope: Scope = option(
        "module", "what shares its weights: nothing (module), a block (layer), or all maps (global)"
    )

    name = "lora_soups"
    paper = LORA_SOUPS

    def start(self, runtime: Runtime) -> dict[str, Tensor]:
        """`weights`, the α, `(groups, N)`, of the mean."""
        pool = runtime.pool
        return {"weights": torch.full((max(groups(pool, self.scope).values()) + 1, len(pool)), 1 / len(pool))}

    def budget(self, experts: int) -> Passes:
        return {}

    def fit(self, fitting: Fitting) -> dict[str, Tensor]:
        pool = fitting.runtime.pool
        return fitting.descend(
            self.start(fitting.runtime), lambda found: static_updates(self.merged(pool, found)), WEIGHT_RATES
        )

    def merged(self, pool: ExpertPool, parameters: Parameters) -> Merged:
        group, factors = groups(pool, self.scope), {}
        for module, stack in pool.modules.items():
            weights = parameters["weights"][group[module]].to(stack.B)
            b = (stack.B * weights[:, None, None]).transpose(0, 1).flatten(1)
            factors[module] = (stack.A.flatten(0, 1), b)
        return Merged(factors)
