"""LoRA Soups' merge under given weights, and how they are shared."""

from __future__ import annotations

import pytest
import torch

from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.merging.lora_soups import LoraSoups
from lorafuse_bench.testing.toys import deltas, pool_of, toy_experts


@pytest.mark.parametrize(("scope", "rows"), [("module", 8), ("layer", 2), ("global", 1)])
def test_each_layer_has_the_sum_under_its_own_weights(scope: str, rows: int) -> None:
    """Dense in fp64; weights are any numbers, and gradients reach all of them."""
    experts = toy_experts()
    pool = pool_of(experts)
    method = registry.parse(f"lora_soups:scope={scope}")
    assert isinstance(method, LoraSoups)
    weights = torch.randn(rows, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    adapter = method.merged(pool, {"weights": weights})
    dense = [deltas(expert) for expert in experts]
    for i, module in enumerate(pool.modules):
        row = {"module": i, "layer": int(".1." in module), "global": 0}[scope]
        expected = sum(w * delta[module] for w, delta in zip(weights[row].double(), dense, strict=True))
        a, b = adapter.factors[module]
        torch.testing.assert_close((b @ a).double(), expected, rtol=1e-4, atol=1e-5)
    sum(b.square().sum() for _, b in adapter.factors.values()).backward()  # type: ignore[union-attr]
    assert weights.grad is not None and (weights.grad != 0).all()
