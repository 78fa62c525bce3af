"""Experts at one linear map, and what merges make of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lorafuse_bench.experts import ExpertPool, LoraExpert
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.base import FusionMethod, Merge

MODULE = "model.layers.0.self_attn.q_proj"


def expert(a: Tensor, b: Tensor, scaling: float = 1.0, name: str = "a") -> LoraExpert:
    return LoraExpert(
        name=name,
        tasks=(name,),
        path=Path(name),
        sha256="0",
        base_sha256=None,
        rank=a.shape[0],
        alpha=scaling * a.shape[0],
        factors={MODULE: (a, b)},
        scaling={MODULE: scaling},
    )


def random_experts(n: int = 3, rank: int = 4, seed: int = 0) -> list[LoraExpert]:
    g = torch.Generator().manual_seed(seed)
    return [
        expert(
            torch.randn(rank + i, 12, generator=g), torch.randn(9, rank + i, generator=g), 0.5 + i, f"e{i}"
        )
        for i in range(n)
    ]


def fused(method: FusionMethod, experts: Sequence[LoraExpert]) -> Tensor:
    assert isinstance(method, Merge)
    adapter = method.fuse(ExpertPool(experts))
    if adapter.dense:
        return adapter.dense[MODULE]
    a, b = adapter.factors[MODULE]
    return b @ a


def delta(spec: str, experts: Sequence[LoraExpert]) -> Tensor:
    return fused(registry.parse(spec), experts)


def own(e: LoraExpert) -> Tensor:
    a, b = e.factors[MODULE]
    return e.scaling[MODULE] * b @ a
