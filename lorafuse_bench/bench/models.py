"""Random models and experts to measure on: cost depends on shapes, not on what was learnt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from lorafuse_bench.zoo.index import index_adapters
from lorafuse_bench.zoo.manifest import Zoo

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Shape:
    """A small model of a large one's make: MLP four times the hidden size, heads of 64, one in two kept for k, v."""

    architecture: str = "qwen2"
    hidden_size: int = 256
    layers: int = 4
    vocabulary: int = 1024
    rank: int = 8

    @property
    def mlp_size(self) -> int:
        return 4 * self.hidden_size


def random_model(shape: Shape) -> PreTrainedModel:
    """A base in fp32 with fixed random weights, ready to run."""
    heads = max(2, shape.hidden_size // 64)
    config = AutoConfig.for_model(
        shape.architecture,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.mlp_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        vocab_size=shape.vocabulary,
        max_position_embeddings=2048,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def write_experts(root: Path, model: nn.Module, experts: int, rank: int) -> list[Path]:
    """PEFT folders `root/experts/e<i>` of random adapters on every linear map of the blocks."""
    linears = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in LINEARS
    }
    folders = []
    for i in range(experts):
        g = torch.Generator().manual_seed(i)
        tensors = {}
        for name, module in linears.items():
            key = f"base_model.model.{name}"
            a = torch.randn(rank, module.in_features, generator=g) * module.in_features**-0.5
            tensors[f"{key}.lora_A.weight"] = a
            tensors[f"{key}.lora_B.weight"] = torch.randn(module.out_features, rank, generator=g) * 0.02
        folder = root / "experts" / f"e{i:03d}"
        folder.mkdir(parents=True)
        save_file(tensors, folder / "adapter_model.safetensors")
        names = sorted({name.rsplit(".", 1)[-1] for name in linears})
        (folder / "adapter_config.json").write_text(_config(rank, names))
        folders.append(folder)
    return folders


def _config(rank: int, targets: Sequence[str]) -> str:
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none"}
    return json.dumps(config | {"r": rank, "lora_alpha": 2 * rank, "target_modules": targets})


def random_zoo(root: Path, shape: Shape, experts: int) -> tuple[Zoo, list[Path]]:
    """A zoo in `root`: the random base and `experts` random experts, and the experts' folders."""
    model = random_model(shape)
    model.save_pretrained(root / "base")
    folders = write_experts(root, model, experts, shape.rank)
    return index_adapters(root, str(root / "base"), init="shared"), folders
