"""Every adapter on a base in bf16, whole: trained, saved, loaded and served, with no wider copy of the base left."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adapters import SPECS, method_of
from safetensors.torch import load_file
from tiny import add_adapter, byte_tokenizer, tiny_model, tiny_zoo
from torch import Tensor, nn

from lorafuse_bench.analysis.prompts import padded, with_experts
from lorafuse_bench.device import mixed_precision
from lorafuse_bench.fused import ADAPTER_WEIGHTS, FusedModel
from lorafuse_bench.memory import Alive
from lorafuse_bench.training import decompositions
from lorafuse_bench.training.adapter_training import AdapterTraining, train_adapter
from lorafuse_bench.training.settings import AdapterSettings
from lorafuse_bench.zoo.manifest import Zoo

KEYS = ("sst2", "mnli")
SETTINGS = AdapterSettings(
    learning_rate=1e-2, epochs=None, steps=2, batch_size=4, cutoff=96, rows=4, gradient_checkpointing=True
)
MOORE = "moore:d_t=5+d_s=3+reflections=4"
ONE_EACH = tuple({spec.partition(":")[0]: spec for spec in reversed(SPECS)}.values())
"""One of every method."""
WIDE = {"inv_freq", "original_inv_freq", "sigma", "by_task"}
"""What stays in fp32 beside any base: angles of positions, and MoORE's weights, where a small g is added to a σ."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("narrow")
    tiny_model(layers=2).bfloat16().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


def held(model: nn.Module) -> list[tuple[str, Tensor]]:
    """The tensors of a model and its updates, registered or not, one for each storage."""
    found = {}
    for module in model.modules():
        for name, value in {**vars(module), **module._parameters, **module._buffers}.items():
            if isinstance(value, Tensor):
                found[value.untyped_storage()._cdata] = (name, value)
    return list(found.values())


def size(tensors: list[tuple[str, Tensor]]) -> int:
    return sum(tensor.nbytes for _, tensor in tensors)


def served(zoo: Path, spec: str, dtype: str) -> tuple[FusedModel, Tensor]:
    """The zoo's adapter in use, and its log-probabilities of one batch with rows of both tasks and of another."""
    fused = with_experts(Zoo.open(zoo), "cpu", dtype, ())
    fused.use(method_of(spec))
    prompts = padded(fused, [[5, 6, 7, 8], [9, 8, 7, 6], [5, 5, 8, 9]], (*KEYS, "squad"))
    fused.selection.set(fused.select(prompts))
    with torch.no_grad():
        return fused, fused.model(input_ids=prompts.input_ids, use_cache=False).logits.float().log_softmax(-1)


@pytest.mark.parametrize("spec", ["mixlora:rank=3+experts=4", MOORE])
def test_an_adapter_is_trained_and_served(
    base: str, handmade_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    """MoORE's decompositions are saved beside what was trained, as those of a large base are."""
    monkeypatch.setattr(decompositions, "SLOW_OPERATIONS", 0)
    data, method = str(handmade_data), method_of(spec)
    entry = train_adapter(
        method, "two", KEYS, base, tmp_path, data, SETTINGS, lambda _: None, "cpu", "bfloat16"
    )
    for name, tensor in load_file(tmp_path / entry.path / ADAPTER_WEIGHTS).items():
        assert tensor.dtype == (torch.bfloat16 if name.endswith((".U", ".Vh")) else torch.float32), name
    check_served(tmp_path, spec, 0.02)


@pytest.mark.parametrize("spec", ONE_EACH)
def test_a_saved_adapter_is_served(tmp_path: Path, spec: str) -> None:
    add_adapter(tiny_zoo(tmp_path, experts=0, dtype=torch.bfloat16), spec)
    check_served(tmp_path, spec, 0.05)


def check_served(zoo: Path, spec: str, within: float) -> None:
    """In bf16 nothing stays that was read or made on the way, and scores are those in fp32 to rounding."""
    with Alive() as alive:
        fused, narrow = served(zoo, spec, "bfloat16")
        tensors = held(fused.model)
        assert alive.bytes - narrow.nbytes <= 1.01 * size(tensors)
    assert all(tensor.dtype != torch.float32 for name, tensor in tensors if name not in WIDE)
    difference = (narrow - served(zoo, spec, "float32")[1]).abs()
    # The median, as a router that takes the two largest may take another where weights are close.
    assert 0 < difference.median() < within, difference.median()


@pytest.mark.parametrize("spec", ONE_EACH)
def test_a_step_makes_gradients_of_what_is_trained_and_nothing_else(spec: str) -> None:
    ids = torch.arange(24).reshape(2, 12)
    with Alive() as alive:
        training = AdapterTraining(tiny_model(layers=2).bfloat16(), method_of(spec), 2, 0).train()
        with mixed_precision(torch.device("cpu"), torch.bfloat16):
            loss = training(
                input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids.clone(), task=torch.arange(2)
            )["loss"]
        loss.backward()
        del loss
        trained = [(name, p) for name, p in training.named_parameters() if p.requires_grad]
        gradients = [(name, p.grad) for name, p in trained if p.grad is not None]
        tensors = held(training)
        assert alive.bytes <= 1.01 * (size(tensors) + size(gradients))
    assert all(p.dtype == torch.float32 for _, p in trained)
    wide = [
        (name, t) for name, t in tensors if t.dtype == torch.float32 and name not in {*WIDE, "probabilities"}
    ]
    assert size(wide) == size(trained)
