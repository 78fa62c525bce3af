"""Which rank a merge has on experts of given sizes, found on a toy: nothing of the experts is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool, LoraExpert
from lorafuse_bench.fusion.base import Merge, Merged
from lorafuse_bench.fusion.fitted import FittedMerge, OneLora

Shape = tuple[int, int]
_MAP = "map"
_EXPERTS, _RANK = 3, 8


def rank_of_merge(method: Merge, ranks: Sequence[int], shape: Shape) -> int | None:
    """R of the factors that `method` makes of experts of these ranks on a map `(out, in)`; None where it makes none.

    R is the experts' rank, the sum of their ranks, out, in, or the method's option `rank`, once or for each expert. A
    toy where all of these differ, and lie in the same order, tells which. What cannot be merged is of full rank.
    """
    largest, whole, (out, into) = max(ranks), sum(ranks), shape
    toy_out = 36 if out >= whole else 18
    toy_in = (39 if into >= out else 33) if into >= whole else (21 if into >= out else 12)
    sizes = {toy_in: into, toy_out: out}
    asked = method.options().get("rank")
    if isinstance(asked, int):
        toy_asked = 5 if asked < largest else _RANK if asked == largest else 10 if asked <= whole else 27
        sizes |= {_EXPERTS * toy_asked: sum(min(asked, rank) for rank in ranks), toy_asked: asked}
        method = replace(cast(Any, method), rank=toy_asked)
    sizes |= {_EXPERTS * _RANK: whole, _RANK: largest}
    try:
        merged = merged_unfitted(method, random_pool([_RANK] * _EXPERTS, {_MAP: (toy_out, toy_in)}))
    except (LorafuseError, TypeError):
        return None
    if not merged.factors:
        return None
    found = len(merged.factors[_MAP][0])
    return sizes.get(found, found)


@torch.no_grad()
def merged_unfitted(method: Merge, pool: ExpertPool) -> Merged:
    """The merge; of a method that is fitted, as it starts, which has the same sizes."""
    if isinstance(method, OneLora):
        return method.merged(pool, method.student(pool, 0))
    if isinstance(method, FittedMerge):
        runtime: Any = SimpleNamespace(pool=pool)
        return method.merged(pool, method.start(runtime) or {})
    return method.fuse(pool)


def random_pool(ranks: Sequence[int], shapes: Mapping[str, Shape]) -> ExpertPool:
    """Random experts, one of each rank, on maps `(out, in)`."""
    generator = torch.Generator().manual_seed(0)

    def expert(i: int, rank: int) -> LoraExpert:
        factors = {
            name: (torch.randn(rank, into, generator=generator), torch.randn(out, rank, generator=generator))
            for name, (out, into) in shapes.items()
        }
        scaling = dict.fromkeys(shapes, 1.0)
        return LoraExpert(f"e{i}", (f"t{i}",), Path(), "", None, rank, float(rank), factors, scaling)

    return ExpertPool([expert(i, rank) for i, rank in enumerate(ranks)])
