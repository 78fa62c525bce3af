"""Toys that methods are checked on: random bases of three architectures, random experts, prompts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from lorafuse_bench.experts import ExpertPool, LoraExpert
from lorafuse_bench.layers import linear_shape

TASKS = ("sst2", "mnli", "squad")
TARGETS = {
    "qwen2": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "gpt2": ("c_attn", "c_proj"),
}
"""The adapted modules of each architecture; all of GPT-2's are Conv1D, which keep W transposed."""

_SHAPES = {
    "qwen2": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "llama": {"hidden_size": 32, "intermediate_size": 48, "num_key_value_heads": 2},
    "gpt2": {"n_embd": 32},
}
VOCABULARY = 257
EOS = 256


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, plus <eos>: any text round-trips."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: i for i, symbol in enumerate([*alphabet, "<eos>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>")


def tiny_model(architecture: str = "qwen2", layers: int = 3, seed: int = 0) -> PreTrainedModel:
    """A random model in fp32 with weights large enough that outputs differ between inputs."""
    common = {
        "vocab_size": VOCABULARY,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "eos_token_id": EOS,
        "bos_token_id": None,
    }
    config = AutoConfig.for_model(
        architecture, **common, **_SHAPES[architecture], max_position_embeddings=512
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.15)
    return model.eval()


@cache
def _base(architecture: str, dtype: torch.dtype) -> PreTrainedModel:
    model: Any = tiny_model(architecture, layers=2)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # they start as zeros, under which a bias that is lost would not be missed
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    made: PreTrainedModel = model.requires_grad_(False).to(dtype)
    return made


def toy_base(architecture: str = "qwen2", dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A base of two blocks, 32 wide, with biases where the architecture has some; a copy that may be written to."""
    return copy.deepcopy(_base(architecture, dtype))


Experts = tuple[LoraExpert, ...]


@cache
def toy_experts(architecture: str = "qwen2", count: int = 3) -> Experts:
    """Experts of unequal ranks (4, 2, 6), alphas and scalings (the second by rsLoRA), on all `TARGETS`."""
    modules = {
        name: linear_shape(module, name)
        for name, module in _base(architecture, torch.float32).named_modules()
        if name.rsplit(".", 1)[-1] in TARGETS[architecture]
    }
    return tuple(_expert(i, modules) for i in range(count))


def _expert(i: int, modules: dict[str, tuple[int, int]]) -> LoraExpert:
    generator = torch.Generator().manual_seed(i + 1)
    rank, alpha = (4, 2, 6)[i % 3], (6.0, 3.0, 10.0)[i % 3]
    factors = {
        name: (
            torch.randn(rank, into, generator=generator) * into**-0.5,
            torch.randn(out, rank, generator=generator) * 0.3,
        )
        for name, (out, into) in modules.items()
    }
    scaling = alpha / (rank**0.5 if i % 2 else rank)
    name = TASKS[i] if i < len(TASKS) else f"task{i}"
    return LoraExpert(
        name=name,
        tasks=(name,),
        path=Path(name),
        sha256=str(i),
        base_sha256=None,
        rank=rank,
        alpha=alpha,
        factors=factors,
        scaling=dict.fromkeys(factors, scaling),
    )


Factors = tuple[Tensor, Tensor]


def changed(expert: LoraExpert, change: Callable[[Tensor, Tensor], Factors]) -> LoraExpert:
    """An expert with `change(A, B)` in place of its factors, in every module."""
    factors = {module: change(a, b) for module, (a, b) in expert.factors.items()}
    return replace(expert, factors=factors)


def scaled(experts: Sequence[LoraExpert], by: float) -> Experts:
    """The experts with their updates multiplied."""
    return tuple(changed(expert, lambda a, b: (a, b * by)) for expert in experts)


def turned(experts: Sequence[LoraExpert]) -> Experts:
    """(A, B) -> (RA, BR⁻¹): other factors, the same updates."""
    generator = torch.Generator().manual_seed(7)

    def turn(a: Tensor, b: Tensor) -> Factors:
        r = torch.randn(len(a), len(a), generator=generator, dtype=torch.float64)
        return (r @ a.double()).float(), (b.double() @ r.inverse()).float()

    return tuple(changed(expert, turn) for expert in experts)


def padded(experts: Sequence[LoraExpert]) -> Experts:
    """All of the largest rank, the added rank components zero: the same updates."""
    rank = max(expert.rank for expert in experts)

    def pad(a: Tensor, b: Tensor) -> Factors:
        return F.pad(a, (0, 0, 0, rank - len(a))), F.pad(b, (0, rank - len(a)))

    return tuple(changed(expert, pad) for expert in experts)


def unscaled(experts: Sequence[LoraExpert]) -> Experts:
    """Each scaling moved into B: the same updates, of scaling 1."""
    made = []
    for expert in experts:
        factors = {m: (a, b * expert.scaling[m]) for m, (a, b) in expert.factors.items()}
        made.append(replace(expert, factors=factors, scaling=dict.fromkeys(factors, 1.0)))
    return tuple(made)


def copies(expert: LoraExpert, count: int = 3) -> Experts:
    """One expert under the names, and for the tasks, of several."""
    return tuple(replace(expert, name=task, tasks=(task,)) for task in TASKS[:count])


def without(expert: LoraExpert, modules: Sequence[str]) -> LoraExpert:
    """An expert that leaves some modules alone."""
    kept = {m: pair for m, pair in expert.factors.items() if m not in modules}
    return replace(expert, factors=kept, scaling={m: expert.scaling[m] for m in kept})


def deltas(expert: LoraExpert) -> dict[str, Tensor]:
    """`s B A (out, in)` of each module, in fp64."""
    return {m: expert.scaling[m] * b.double() @ a.double() for m, (a, b) in expert.factors.items()}


def with_deltas(model: PreTrainedModel, updates: dict[str, Tensor]) -> PreTrainedModel:
    """The model in fp64 with `ΔW` added to its weights."""
    model = model.double()
    for name, delta in updates.items():
        layer: Any = model.get_submodule(name)
        layer.weight.data += delta.T if type(layer).__name__ == "Conv1D" else delta
    return model


def pool_of(experts: Sequence[LoraExpert]) -> ExpertPool:
    """A pool with factors of its own, so that writing to them leaves the toys alone."""
    return ExpertPool([changed(expert, lambda a, b: (a.clone(), b.clone())) for expert in experts])


@cache
def toy_prompts() -> tuple[tuple[int, ...], ...]:
    """Token ids of prompts of unequal lengths."""
    generator = torch.Generator().manual_seed(3)
    lengths = (9, 4, 12, 1, 7)
    return tuple(tuple(torch.randint(0, 256, (n,), generator=generator).tolist()) for n in lengths)
