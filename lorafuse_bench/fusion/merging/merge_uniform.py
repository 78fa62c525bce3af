"""Uniform merging: the mean of the factors, or of the updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion.base import Merge, Merged, option
from lorafuse_bench.fusion.papers import TRADEOFFS
from lorafuse_bench.fusion.registry import register


@register
@dataclass(frozen=True)
class MergeUniform(Merge):
    """One adapter with equal weights λ = 1/N.

    `space=lowrank` (merge-before): `ΔW = ((1/N) Σ s_i B_i)((1/N) Σ A_i)`, of the largest rank; it shrinks
    with N unless the experts share their initial A. `space=full` (merge-after):
    `ΔW = (1/N) Σ s_i B_i A_i`, kept exactly as one LoRA of rank `Σ r_i`.
    Source: trade-offs, appendix B.2. Cost: one LoRA.
    """

    space: Literal["lowrank", "full"] = option(
        "lowrank", "average the factors (lowrank) or the updates (full)"
    )

    name = "merge_uniform"
    paper = f"{TRADEOFFS}, appendix B.2"

    @property
    def merge_before(self) -> bool:
        return self.space == "lowrank"

    def fuse(self, pool: ExpertPool) -> Merged:
        return uniform_lowrank(pool) if self.space == "lowrank" else uniform_full(pool)


def uniform_full(pool: ExpertPool) -> Merged:
    """`(1/N) Σ s_i B_i A_i` as concatenated factors."""
    return Merged(
        {
            module: (stack.A.flatten(0, 1), stack.B.transpose(0, 1).flatten(1) / len(pool))
            for module, stack in pool.modules.items()
        }
    )


def uniform_lowrank(pool: ExpertPool) -> Merged:
    """`((1/N) Σ s_i B_i)((1/N) Σ A_i)`; absent experts count as zero."""
    return Merged({module: (stack.A.mean(0), stack.B.mean(0)) for module, stack in pool.modules.items()})
