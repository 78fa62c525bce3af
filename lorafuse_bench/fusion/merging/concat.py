"""Concatenation: every expert's update added in parallel."""

from __future__ import annotations

from dataclasses import dataclass

from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion.base import Law, Merge, Merged, option
from lorafuse_bench.fusion.papers import RETHINKING
from lorafuse_bench.fusion.registry import register


@register
@dataclass(frozen=True)
class Concat(Merge):
    """The sum of all experts' updates, kept exactly as one LoRA of rank `Σ r_i`.

    `ΔW = Σ_i s_i B_i A_i`, as `A = [A_1; ...; A_N] (Σr, in)`, `B = [s_1 B_1, ..., s_N B_N] (out, Σr)`.
    Weights are 1, not 1/N. Source: rethinking LoRA merging, section 3.4 (1); `scaling=false` drops
    `s_i`, the ablation of its Table 5. Cost: one LoRA of rank `Σ r_i`.
    """

    scaling: bool = option(True, "keep each expert's scaling alpha/r")

    name = "concat"
    paper = f"{RETHINKING}, section 3.4"

    @property
    def laws_broken(self) -> dict[Law, str]:
        broken: dict[Law, str] = {"copies of one expert are it": "weights are 1, not 1/N"}
        if not self.scaling:
            dropped = "its scaling alpha/r is dropped"
            broken |= {"one expert is itself": dropped, "alphas and rsLoRA": dropped}
        return broken

    def fuse(self, pool: ExpertPool) -> Merged:
        factors = {}
        for module, stack in pool.modules.items():
            b = stack.B if self.scaling else stack.B / stack.scaling[:, None, None]
            factors[module] = (stack.A.flatten(0, 1), b.transpose(0, 1).flatten(1))
        return Merged(factors)
