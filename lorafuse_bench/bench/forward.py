"""Forward passes against the base and PEFT: `lorafuse bench forward`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import ArrowConfig, PeftModel, create_arrow_model
from torch import Tensor, nn
from transformers import DynamicCache

from lorafuse_bench.bench.models import Shape, random_model, random_zoo
from lorafuse_bench.bench.timing import machine, paired, target
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion import registry
from lorafuse_bench.zoo.manifest import Zoo

Model = Callable[..., Any]
ROUTERS = ("arrow", "spectr")
_LIMITS = {8: (1.5, 2.0), 32: (2.4, 6.0)}
"""Experts: routers' time over base at most, PEFT's Arrow's time over ours at least."""


def run(
    shape: Shape | None = None,
    experts: Sequence[int] = (8, 32),
    row_experts: int = 32,
    sweep_experts: Sequence[int] = (8, 32, 128, 256),
    batch: int = 16,
    tokens: int = 64,
    rounds: int = 9,
) -> dict[str, Any]:
    """Time routers, one expert per row, and the cost against N; fields as in docs/performance.md."""
    shape = shape or Shape()
    gated = [routing(shape, n, batch, tokens, rounds) for n in experts]
    rows = rows_apart(shape, row_experts, batch, tokens, rounds)
    cost = sweep(shape, sweep_experts, batch, tokens, rounds)
    return {
        "schema": "lorafuse.bench.forward/1",
        "machine": machine(),
        "shape": asdict(shape) | {"mlp_size": shape.mlp_size},
        "batch": batch,
        "tokens": tokens,
        "rounds": rounds,
        "routing": gated,
        "rows": rows,
        "sweep": cost,
        "targets": _targets(gated, rows, cost),
    }


@torch.no_grad()
def routing(shape: Shape, experts: int, batch: int, tokens: int, rounds: int) -> dict[str, Any]:
    """One prefill: base, our routers and PEFT's Arrow, k = 4, all on the same experts."""
    with tempfile.TemporaryDirectory() as folder:
        zoo, paths = random_zoo(Path(folder), shape, experts)
        models: dict[str, nn.Module] = {"base": random_model(shape)}
        models |= {name: _routed(name, shape, zoo, experts).model for name in ROUTERS}
        config = ArrowConfig(top_k=min(4, experts), rng_seed=0)
        models["peft_arrow"] = create_arrow_model(random_model(shape), [str(p) for p in paths], config).eval()
    ids = _tokens(shape, batch, tokens)
    timings = paired({name: _prefill(model, ids) for name, model in models.items()}, rounds)
    return {
        "experts": experts,
        "alternatives": timings.against("base"),
        **{f"peft_over_{name}": timings.ratio("peft_arrow", name) for name in ROUTERS},
    }


def _routed(name: str, shape: Shape, zoo: Zoo, experts: int) -> FusedModel:
    """The base with the zoo's first experts under a router, k = 4 where there are so many."""
    entries = zoo.manifest.experts[:experts]
    fused = FusedModel(random_model(shape), zoo, ExpertPool.from_entries(zoo, entries))
    fused.use(registry.create(name, {"k": min(4, experts)}))
    return fused


@torch.no_grad()
def rows_apart(shape: Shape, experts: int, batch: int, tokens: int, rounds: int) -> dict[str, Any]:
    """One random expert per row: base, ours and PEFT's mixed batch, prefilling and decoding one token."""
    with tempfile.TemporaryDirectory() as folder:
        zoo, paths = random_zoo(Path(folder), shape, experts)
        fused = FusedModel(random_model(shape), zoo, ExpertPool.from_zoo(zoo))
        theirs = PeftModel.from_pretrained(random_model(shape), str(paths[0]), adapter_name="e0")
        for i, path in enumerate(paths[1:], 1):
            theirs.load_adapter(str(path), adapter_name=f"e{i}")
    chosen = torch.randint(experts, (batch,), generator=torch.Generator().manual_seed(0))
    fused.use(registry.parse("oracle"))
    fused.selection.set(chosen[:, None].expand(-1, fused.base.blocks).clone())
    mixed = partial(theirs.eval(), adapter_names=[f"e{i}" for i in chosen.tolist()])
    models: dict[str, Model] = {"base": random_model(shape), "rows": fused.model, "peft_mixed": mixed}
    ids = _tokens(shape, batch, tokens)
    prefill = paired({name: _prefill(model, ids) for name, model in models.items()}, rounds)
    decode = paired({name: _decode(model, ids) for name, model in models.items()}, rounds, repeats=20)
    return {
        "experts": experts,
        "prefill": prefill.against("base"),
        "prefill_peft_over_ours": prefill.ratio("peft_mixed", "rows"),
        "decode": decode.against("base"),
        "decode_peft_over_ours": decode.ratio("peft_mixed", "rows"),
    }


def _prefill(model: Model, ids: Tensor) -> Callable[[], Any]:
    return lambda: model(input_ids=ids, use_cache=False)


def _decode(model: Model, ids: Tensor) -> Callable[[], Any]:
    """One token a row after `ids`, whose keys and values are kept; the step's own are dropped again."""
    cache: DynamicCache | None = None

    def step() -> None:
        nonlocal cache
        if cache is None:
            cache = DynamicCache()
            model(input_ids=ids, past_key_values=cache, use_cache=True)
        model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True)
        cache.crop(-1)

    return step


@torch.no_grad()
def sweep(shape: Shape, experts: Sequence[int], batch: int, tokens: int, rounds: int) -> dict[str, Any]:
    """The routers' time over base for growing N, beside the floating-point operations they add."""
    points = []
    ids = _tokens(shape, batch, tokens)
    base = random_model(shape)
    with tempfile.TemporaryDirectory() as folder:
        zoo, _ = random_zoo(Path(folder), shape, max(experts))
        for n in experts:
            routers = {name: _routed(name, shape, zoo, n) for name in ROUTERS}
            models = {"base": base} | {name: fused.model for name, fused in routers.items()}
            timings = paired({name: _prefill(model, ids) for name, model in models.items()}, rounds)
            added = routers["spectr"].extra_parameters
            points.append(
                {
                    "experts": n,
                    "alternatives": timings.against("base"),
                    "flops_ratio": 1 + 2 * added / _base_flops(base, shape, tokens),
                }
            )
    return {"points": points, "slopes": _slopes(points)}


def _base_flops(model: nn.Module, shape: Shape, tokens: int) -> float:
    """Floating-point operations per token of the base: its linear maps, and attention over `tokens`."""
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    return 2.0 * linear + 4.0 * shape.layers * shape.hidden_size * tokens


def _slopes(points: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Growth per expert of time over base, and of operations over base: least squares over the points."""
    n = [float(p["experts"]) for p in points]
    columns = {name: [p["alternatives"][name]["ratio"] for p in points] for name in ROUTERS}
    columns["flops"] = [p["flops_ratio"] for p in points]
    return {name: _slope(n, values) for name, values in columns.items()}


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - mean_x) ** 2 for a in x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread if spread else 0.0


def _targets(
    gated: Sequence[dict[str, Any]], rows: dict[str, Any], cost: dict[str, Any]
) -> list[dict[str, Any]]:
    lines = []
    for result in gated:
        n = result["experts"]
        if n not in _LIMITS:
            continue
        most, least = _LIMITS[n]
        for name in ROUTERS:
            ratio = result["alternatives"][name]["ratio"]
            lines.append(target(f"{name}, {n} experts: over base", ratio, at_most=most))
            lines.append(
                target(
                    f"{name}, {n} experts: PEFT's Arrow / ours", result[f"peft_over_{name}"], at_least=least
                )
            )
    for phase, most in (("prefill", 1.15), ("decode", 1.8)):
        lines.append(target(f"rows, {phase}: over base", rows[phase]["rows"]["ratio"], at_most=most))
        lines.append(
            target(f"rows, {phase}: PEFT mixed / ours", rows[f"{phase}_peft_over_ours"], at_least=1.0)
        )
    slopes = cost["slopes"]
    lines += [
        target(f"{name}: growth with N, over that of operations", slopes[name] / slopes["flops"], at_most=1.0)
        for name in ROUTERS
        if slopes["flops"]
    ]
    return lines


def _tokens(shape: Shape, batch: int, tokens: int) -> Tensor:
    return torch.randint(shape.vocabulary, (batch, tokens), generator=torch.Generator().manual_seed(0))
