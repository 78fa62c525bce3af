"""The routers against dense fp64 references written from the papers, and against PEFT's own Arrow."""

from __future__ import annotations

from pathlib import Path

import pytest
import routed
import torch
from agreement import ARCHITECTURES, adapters, check, constant
from dense import load_base
from peft import ArrowConfig, create_arrow_model
from tiny import ATTENTION, tiny_model, tiny_zoo, write_adapter
from torch import Tensor
from transformers import AutoModelForCausalLM

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion import registry
from lorafuse_bench.model_wrappers.hf import LorafuseLM

N = 4
BEFORE = pytest.mark.filterwarnings("ignore:method '.*' combines factors")


@pytest.fixture(scope="module", params=ARCHITECTURES)
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LorafuseLM:
    """Four experts of unequal ranks, alphas and scalings; two of them leave out one kind of linear map."""
    root = tmp_path_factory.mktemp(request.param)
    tiny_zoo(root, request.param, experts=N, mixed=True)
    return LorafuseLM("base", zoo=root, batch_size=4, device="cpu")


@BEFORE
@pytest.mark.parametrize(
    ("spec", "update"),
    [
        ("arrow", routed.arrow(4)),
        ("arrow:k=1", routed.arrow(1)),
        ("arrow:k=2+temperature=0.3", routed.arrow(2, temperature=0.3)),
        ("arrow:k=3+merge=before", routed.arrow(3, before=True)),
        ("spectr", routed.spectr(4)),
        ("spectr:k=1", routed.spectr(1)),
        ("spectr:k=2+score=subspace", routed.spectr(2, subspace=True)),
        ("spectr:k=2+merge=two_step", routed.spectr(2, two_step=True)),
        ("spectr:k=3+score=subspace+merge=two_step", routed.spectr(3, subspace=True, two_step=True)),
        ("mu", routed.mu(N)),
        ("mu:merge=before", routed.mu(N, before=True)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_equals_the_formula(lm: LorafuseLM, spec: str, update: routed.Update) -> None:
    check(lm, spec, constant(routed.routed(load_base(lm.zoo.root), adapters(lm.zoo), update)))


def peft_arrow(tmp_path: Path, k: int, temperature: float) -> tuple[torch.nn.Module, LorafuseLM]:
    """PEFT's Arrow and ours over the same four adapters: one rank, as PEFT asks, unequal alphas, one rsLoRA."""
    zoo = tiny_zoo(tmp_path / "zoo", "qwen2", experts=N)
    base, entries = tiny_model("qwen2"), []
    for i, entry in enumerate(zoo.manifest.experts):
        folder = zoo.root / entry.path
        write_adapter(folder, base, ATTENTION["qwen2"], seed=i + 1, alpha=4 + 3 * i, use_rslora=i == 1)
        entries.append(folder)
    model = AutoModelForCausalLM.from_pretrained(zoo.root / "base", dtype=torch.float32)
    config = ArrowConfig(top_k=k, router_temperature=temperature, rng_seed=0)
    theirs = create_arrow_model(model, [str(folder) for folder in entries], config).eval()
    return theirs, LorafuseLM("base", zoo=zoo.root, device="cpu")


def put_exact_prototypes(model: torch.nn.Module) -> float:
    """Dense SVD in place of PEFT's 15 power iterations; returns the smallest |cosine| between the two."""
    worst = 1.0
    for layer in model.modules():
        if not hasattr(layer, "lora_arrow"):
            continue
        arrow = layer.lora_arrow["arrow_router"]
        arrow.build_prototypes(layer.lora_A, layer.lora_B)
        for i, name in enumerate(arrow.task_adapter_names):
            product = layer.lora_B[name].weight.double() @ layer.lora_A[name].weight.double()
            exact = torch.linalg.svd(product)[2][0].float()
            worst = min(worst, float((arrow.prototypes[i] @ exact).abs()))
            arrow.prototypes[i] = exact
    return worst


@pytest.mark.parametrize(("k", "temperature"), [(3, 1.0), (2, 0.5), (1, 1.0)])
@torch.no_grad()
def test_arrow_equals_pefts_with_exact_prototypes(tmp_path: Path, k: int, temperature: float) -> None:
    """Given the exact first directions PEFT's Arrow agrees: it scales each adapter, softmax over the top k."""
    theirs, ours = peft_arrow(tmp_path, k, temperature)
    ids = torch.randint(0, 256, (3, 20), generator=torch.Generator().manual_seed(0))
    inexact = theirs(ids).logits
    assert put_exact_prototypes(theirs) < 0.9999
    expected = theirs(ids).logits
    ours.use(registry.parse(f"arrow:k={k}+temperature={temperature}"))
    torch.testing.assert_close(ours.model(ids).logits, expected, rtol=1e-4, atol=1e-4)
    # The power iteration has not converged on such adapters: it is why the prototypes are replaced.
    assert (inexact - expected).abs().max() > 1e-3


def logits(lm: LorafuseLM, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return lm.model(ids).logits


@pytest.mark.parametrize("method", ["arrow", "spectr"])
@pytest.mark.parametrize("k", [0, -1, N + 1])
def test_k_out_of_range(lm: LorafuseLM, method: str, k: int) -> None:
    with pytest.raises(LorafuseError, match=f"method '{method}': k={k} must be between 1 and .* {N}"):
        lm.use(registry.parse(f"{method}:k={k}"))


def test_temperature_must_be_positive() -> None:
    with pytest.raises(LorafuseError, match="temperature=0.0 must be above 0"):
        registry.parse("arrow:temperature=0")
