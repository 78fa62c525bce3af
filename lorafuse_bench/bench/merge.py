"""Merging against PEFT's svd and a dense SVD: `lorafuse bench merge`."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from lorafuse_bench.bench.timing import machine, paired, target
from lorafuse_bench.experts import ExpertPool, LoraExpert
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.base import Merge
from lorafuse_bench.memory import peak_bytes, reset_peak

SHAPES = ((896, 896), (1536, 1536), (4864, 896))
"""(out, in): attention of a 0.5B and a 1.5B Qwen2, and the 0.5B's MLP."""
_MODULE = "linear"
_MEGABYTE = 2**20


def run(
    shapes: Sequence[tuple[int, int]] = SHAPES,
    experts: int = 8,
    rank: int = 8,
    rounds: int = 3,
    memory_shape: tuple[int, int] = (4864, 896),
    memory_experts: int = 32,
) -> dict[str, Any]:
    """Time svd and knots on each shape and measure memory; fields as in docs/performance.md."""
    svd = [svd_against_peft(shape, experts, rank, rounds) for shape in shapes]
    knots = [knots_against_dense(shape, experts, rank, rounds) for shape in shapes]
    memory = [extra_memory(spec, memory_shape, memory_experts, rank) for spec in ("svd", "knots")]
    targets = [
        *(target(f"svd {r['shape']}: PEFT / ours", r["peft_over_ours"], at_least=100) for r in svd),
        *(target(f"knots {r['shape']}: dense / ours", r["dense_over_ours"], at_least=500) for r in knots),
        *(
            target(f"{r['method']} {r['shape']}, {r['experts']} experts: extra MB", r["extra_mb"], at_most=64)
            for r in memory
            if r["extra_mb"] is not None
        ),
    ]
    return {
        "schema": "lorafuse.bench.merge/1",
        "machine": machine(),
        "experts": experts,
        "rank": rank,
        "rounds": rounds,
        "svd": svd,
        "knots": knots,
        "memory": memory,
        "targets": targets,
    }


def random_pool(shape: tuple[int, int], experts: int, rank: int) -> ExpertPool:
    """Random experts of one linear map `(out, in)`, scaling 2."""
    g = torch.Generator().manual_seed(0)
    return ExpertPool([_expert(f"e{i}", shape, rank, g) for i in range(experts)])


def _expert(name: str, shape: tuple[int, int], rank: int, g: torch.Generator) -> LoraExpert:
    a = torch.randn(rank, shape[1], generator=g) * shape[1] ** -0.5
    b = torch.randn(shape[0], rank, generator=g) * 0.02
    return LoraExpert(
        name=name,
        tasks=(name,),
        path=Path(name),
        sha256="",
        base_sha256=None,
        rank=rank,
        alpha=2.0 * rank,
        factors={_MODULE: (a, b)},
        scaling={_MODULE: 2.0},
    )


def svd_against_peft(shape: tuple[int, int], experts: int, rank: int, rounds: int) -> dict[str, Any]:
    """`svd` against `add_weighted_adapter(combination_type="svd")`, with full matrices (its default) and without."""
    pool = random_pool(shape, experts, rank)
    method = cast(Merge, registry.parse("svd"))
    model = _peft_model(pool, rank)
    numbers = itertools.count()

    def theirs(full: bool) -> str:
        name = f"merged{next(numbers)}"
        weights = [1 / experts] * experts
        model.add_weighted_adapter(
            list(pool.names), weights, name, combination_type="svd", svd_rank=rank, svd_full_matrices=full
        )
        return name

    method.fuse(pool)
    timings = paired(
        {
            "ours": lambda: method.fuse(pool),
            "peft": lambda: theirs(True),
            "peft_thin": lambda: theirs(False),
        },
        rounds,
        warmup=0,
    )
    a, b = method.fuse(pool).factors[_MODULE]
    return {
        "shape": _text(shape),
        "alternatives": timings.against("ours"),
        "peft_over_ours": timings.ratio("peft", "ours"),
        "peft_thin_over_ours": timings.ratio("peft_thin", "ours"),
        "relative_difference": _difference(b @ a, _peft_delta(model, theirs(False))),
    }


def _peft_model(pool: ExpertPool, rank: int) -> PeftModel:
    """One linear map with the pool's experts as PEFT adapters."""
    out, into = pool.modules[_MODULE].shape
    base = nn.Module()
    base.add_module(_MODULE, nn.Linear(into, out, bias=False))
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=[_MODULE])
    first, *others = pool.names
    model = get_peft_model(cast(Any, base), config, adapter_name=first)
    for name in others:
        model.add_adapter(name, config)
    layer = model.get_submodule(f"base_model.model.{_MODULE}")
    for expert in pool.experts:
        a, b = expert.factors[_MODULE]
        layer.lora_A[expert.name].weight.data.copy_(a)
        layer.lora_B[expert.name].weight.data.copy_(b)
    return cast(PeftModel, model)


def _peft_delta(model: PeftModel, name: str) -> Tensor:
    layer: Any = model.get_submodule(f"base_model.model.{_MODULE}")
    return cast(Tensor, layer.get_delta_weight(name).detach())


def knots_against_dense(shape: tuple[int, int], experts: int, rank: int, rounds: int) -> dict[str, Any]:
    """All of `knots` (basis, TIES, factors) against the one dense fp64 SVD that the definition starts with."""
    pool = random_pool(shape, experts, rank)
    stack = pool.modules[_MODULE]
    method = cast(Merge, registry.parse("knots"))
    wide = torch.cat([b.double() @ a.double() for a, b in zip(stack.A, stack.B, strict=True)], dim=1)
    method.fuse(pool)
    timings = paired(
        {"ours": lambda: method.fuse(pool), "dense": lambda: torch.linalg.svd(wide, full_matrices=False)},
        rounds,
        warmup=0,
    )
    a, b = cast(Merge, registry.parse("knots:merge=linear")).fuse(pool).factors[_MODULE]
    mean = wide.unflatten(1, (experts, shape[1])).mean(1)
    return {
        "shape": _text(shape),
        "alternatives": timings.against("ours"),
        "dense_over_ours": timings.ratio("dense", "ours"),
        "relative_difference": _difference(b @ a, mean),
    }


def extra_memory(spec: str, shape: tuple[int, int], experts: int, rank: int) -> dict[str, Any]:
    """Peak resident memory of a fresh process while it merges, less what it had before (the experts among it)."""
    with multiprocessing.get_context("spawn").Pool(1) as processes:
        extra = processes.apply(_measure_extra, (spec, shape, experts, rank))
    return {
        "method": spec,
        "shape": _text(shape),
        "experts": experts,
        "extra_mb": None if extra is None else extra / _MEGABYTE,
    }


def _measure_extra(spec: str, shape: tuple[int, int], experts: int, rank: int) -> int | None:
    method = cast(Merge, registry.parse(spec))
    pool = random_pool(shape, experts, rank)
    method.fuse(random_pool((rank, rank), 2, rank))  # what libraries set up once is not the merge's
    device = torch.device("cpu")
    reset_peak(device)
    before = peak_bytes(device)
    merged = method.fuse(pool)
    after = peak_bytes(device)
    assert merged.factors
    return None if before is None or after is None else after - before


def _difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def _text(shape: tuple[int, int]) -> str:
    return f"{shape[0]}x{shape[1]}"
