"""Wider attention heads that compute the same: for engines that serve only some head sizes.

A head of size d becomes one of size D > d. Rotary embeddings turn the pairs `(i, i + d/2)` by
`position · θ^(-2i/d)`, so the halves of a head move to the starts of the new halves, zeros fill the rest,
and `θ' = θ^(D/d)` keeps every angle. Attention divides by `√D` instead of `√d`, so queries grow by
`√(D/d)`. Logits are equal up to rounding.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, PretrainedConfig

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import regular_files, write_json
from lorafuse_bench.loading import load_config
from lorafuse_bench.peft_tensors import WEIGHTS

VLLM_CPU_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Head sizes of vLLM's attention on CPUs (0.32)."""

CONFIG = "adapter_config.json"

_SHARED = (
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads"
    " hidden_act max_position_embeddings rms_norm_eps tie_word_embeddings bos_token_id eos_token_id pad_token_id"
).split()


@dataclass(frozen=True)
class Widening:
    """Heads of size `old` to be made `new` wide."""

    old: int
    new: int

    @classmethod
    def needed(cls, config: PretrainedConfig, sizes: tuple[int, ...]) -> Widening | None:
        """From the config's head size to the next of `sizes`; None when it is one of them.

        LorafuseError for models whose heads cannot be widened exactly.
        """
        old = head_size(config)
        if old in sizes:
            return None
        new = next((size for size in sorted(sizes) if size > old), None)
        rope = getattr(config, "rope_parameters", None) or {}
        if config.model_type not in ("qwen2", "llama") or rope.get("rope_type") != "default" or new is None:
            raise LorafuseError(
                f"attention heads of size {old} cannot be served here (only {', '.join(map(str, sizes))}), and those"
                f" of this {config.model_type} model cannot be widened. Use --model lorafuse."
            )
        return cls(old, new)

    def rows(self, tensor: Tensor, scale: float = 1.0) -> Tensor:
        """`(heads · new, ...)` from `(heads · old, ...)`, times `scale`; zeros where a head had nothing."""
        heads = tensor.unflatten(0, (-1, self.old))
        wide = heads.new_zeros(len(heads), self.new, *heads.shape[2:])
        half = self.old // 2
        wide[:, :half] = heads[:, :half] * scale
        wide[:, self.new // 2 : self.new // 2 + half] = heads[:, half:] * scale
        return wide.flatten(0, 1)

    def tensor(self, name: str, tensor: Tensor) -> Tensor:
        """The widened form of a model's or an adapter's tensor: `...q_proj.weight`, `...q_proj.lora_B.weight`."""
        parts = name.split(".")
        if "q_proj" in parts and "lora_A" not in parts:
            return self.rows(tensor, (self.new / self.old) ** 0.5)
        if ("k_proj" in parts or "v_proj" in parts) and "lora_A" not in parts:
            return self.rows(tensor)
        if "o_proj" in parts and "lora_B" not in parts and tensor.ndim == 2:
            return self.rows(tensor.T).T.contiguous()
        return tensor

    def config(self, config: PretrainedConfig) -> LlamaConfig:
        """A Llama of the same function: the architecture that lets heads be wider than hidden size / heads."""
        rope = config.rope_parameters
        return LlamaConfig(
            **{key: getattr(config, key) for key in _SHARED},
            head_dim=self.new,
            attention_bias=_has_bias(config),
            rope_parameters={**rope, "rope_theta": rope["rope_theta"] ** (self.new / self.old)},
            architectures=["LlamaForCausalLM"],
            dtype=config.dtype,
        )


def head_size(config: PretrainedConfig) -> int:
    """Size of an attention head."""
    given = getattr(config, "head_dim", None)
    return int(given or config.hidden_size // config.num_attention_heads)


def widen_model(source: Path, out: Path, config: PretrainedConfig, widening: Widening) -> None:
    """Write the model in `source` with wider heads to the new folder `out`, with its tokenizer."""
    tensors: dict[str, Tensor] = {}
    for file in regular_files(source, "*.safetensors"):
        tensors |= load_file(file)
    tensors = _widened(tensors, widening)
    if _has_bias(config):  # Llama's attention has four biases or none, Qwen2's three
        for name in [name for name in tensors if name.endswith("o_proj.weight")]:
            bias = name.removesuffix("weight") + "bias"
            tensors.setdefault(bias, torch.zeros_like(tensors[name][:, 0]))
    out.mkdir(parents=True)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    widening.config(config).save_pretrained(out)
    weights = {"model.safetensors.index.json", "config.json"}
    for file in source.iterdir():
        if file.suffix in (".json", ".txt", ".model") and file.name not in weights:
            shutil.copyfile(file, out / file.name)


def widen_adapter(source: Path, out: Path, widening: Widening, base: Path) -> None:
    """Write the PEFT adapter in `source` for the base `base`, which has wider heads, to the new folder `out`."""
    shutil.copytree(source, out, ignore=shutil.ignore_patterns(WEIGHTS))
    save_file(_widened(load_file(source / WEIGHTS), widening), out / WEIGHTS, metadata={"format": "pt"})
    set_base(out, base)


def set_base(adapter: Path, base: Path) -> None:
    """Let a PEFT adapter name the folder `base` as its base model."""
    settings: dict[str, Any] = json.loads((adapter / CONFIG).read_text())
    write_json(
        adapter / CONFIG, {**settings, "base_model_name_or_path": str(base.resolve()), "revision": None}
    )


def fit(model: Path, adapters: Sequence[Path], sizes: Sequence[int], out: Path) -> tuple[Path, list[Path]]:
    """The model and its adapters with heads of one of `sizes`: themselves, or `out/base` and `out/<adapter>`.

    LorafuseError where heads cannot be widened exactly.
    """
    config = load_config(model)
    widening = Widening.needed(config, tuple(sizes))
    if widening is None:
        return model, list(adapters)
    base = out / "base"
    widen_model(model, base, config, widening)
    for path in adapters:
        widen_adapter(path, out / path.name, widening, base)
    return base, [out / path.name for path in adapters]


def _widened(tensors: Mapping[str, Tensor], widening: Widening) -> dict[str, Tensor]:
    return {name: widening.tensor(name, tensor) for name, tensor in tensors.items()}


def _has_bias(config: PretrainedConfig) -> bool:
    return config.model_type == "qwen2" or bool(getattr(config, "attention_bias", False))
