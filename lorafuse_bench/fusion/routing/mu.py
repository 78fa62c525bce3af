"""Mu: every expert at once, with equal gates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion.base import Family, Merge, Merged, option
from lorafuse_bench.fusion.merging.merge_uniform import uniform_full, uniform_lowrank
from lorafuse_bench.fusion.papers import SPECTR
from lorafuse_bench.fusion.registry import register


@register
@dataclass(frozen=True)
class Mu(Merge):
    """Uniform routing: `y = Wx + (1/N) Σ_i s_i B_i A_i x`, the gates 1/N for every token.

    The routers' baseline. Its gates do not depend on the input, so it collapses to one adapter of rank
    `Σ r_i`; `merge=before` combines the factors first and equals `merge_uniform:space=lowrank`.
    Source: SpectR, section 4 (μ). Cost: one LoRA of rank `Σ r_i`.
    """

    merge: Literal["after", "before"] = option("after", "combine products (after) or factors (before)")

    name = "mu"
    family: ClassVar[Family] = "routing"
    paper = f"{SPECTR}, section 4"

    @property
    def merge_before(self) -> bool:
        return self.merge == "before"

    def fuse(self, pool: ExpertPool) -> Merged:
        return uniform_full(pool) if self.merge == "after" else uniform_lowrank(pool)
