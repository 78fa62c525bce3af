"""Independent fp64 references: dense weight updates from the raw adapter files, one prompt at a time."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

Deltas = dict[str, Tensor]


def load_base(zoo: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(zoo / "base", dtype=torch.float64).eval()


def raw_factors(folder: Path) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, float]]:
    """Module -> (A, B), and module -> scaling, straight from the files in fp64."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    factors, scaling = {}, {}
    for key, a in tensors.items():
        if not key.endswith("lora_A.weight"):
            continue
        b = tensors[key.replace("lora_A", "lora_B")]
        module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        root = a.shape[0] ** 0.5 if config.get("use_rslora") else a.shape[0]
        factors[module] = (a.double(), b.double())
        scaling[module] = config["lora_alpha"] / root
    return factors, scaling


def expert_delta(folder: Path, scaled: bool = True) -> Deltas:
    """`s B A` of one adapter, as dense matrices (out, in)."""
    factors, scaling = raw_factors(folder)
    return {m: (scaling[m] if scaled else 1.0) * b @ a for m, (a, b) in factors.items()}


def total(deltas: Sequence[Deltas], weight: float = 1.0) -> Deltas:
    """Weighted sum of dense updates; a missing module counts as zero."""
    result: Deltas = {}
    for delta in deltas:
        for module, matrix in delta.items():
            result[module] = result.get(module, torch.zeros_like(matrix)) + weight * matrix
    return result


def with_delta(base: PreTrainedModel, delta: Mapping[str, Tensor]) -> PreTrainedModel:
    """A copy of the base with `ΔW` added to its weights."""
    model = copy.deepcopy(base)
    for module, matrix in delta.items():
        layer = model.get_submodule(module)
        with torch.no_grad():
            layer.weight += matrix.T if type(layer).__name__ == "Conv1D" else matrix
    return model


def blockwise(per_block: Sequence[Deltas]) -> Deltas:
    """Each block's update from its own set: `per_block[l]` serves block l."""
    return {
        module: matrix
        for block, delta in enumerate(per_block)
        for module, matrix in delta.items()
        if f".{block}." in module
    }


@torch.no_grad()
def log_probability(model: PreTrainedModel, context: Sequence[int], continuation: Sequence[int]) -> float:
    logits = model(torch.tensor([[*context, *continuation]])).logits[0].log_softmax(-1)
    start = len(context) - 1
    return sum(logits[start + i, token].item() for i, token in enumerate(continuation))


@torch.no_grad()
def greedy(model: PreTrainedModel, prompt: Sequence[int], steps: int, eos: int) -> list[int]:
    """Greedy decoding without a cache: the whole sequence is run again for each token."""
    ids = list(prompt)
    for _ in range(steps):
        token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        if token == eos:
            break
        ids.append(token)
    return ids[len(prompt) :]
