"""A third party's method, as short as one can be."""

from __future__ import annotations

from dataclasses import dataclass

from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion.base import Merge, Merged


@dataclass(frozen=True)
class Mine(Merge):
    """The first expert alone."""

    name = "mine"
    paper = "none"

    def fuse(self, pool: ExpertPool) -> Merged:
        return Merged({m: (stack.A[0], stack.B[0]) for m, stack in pool.modules.items()})
