"""A zoo of a library in the format of mttl, in which the public experts of Phi-2 are: a file for each expert.

A file holds tensors `<module>.lora_a (in, r)` and `<module>.lora_b (r, out)`, at its top or under
`expert_weights`, and may hold `expert_info` with the task and the scaling: `y = Wx + alpha/r · (x lora_a) lora_b`.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import new_folder, write_bytes, write_json
from lorafuse_bench.limits import POSITIVE
from lorafuse_bench.peft_tensors import WEIGHTS
from lorafuse_bench.zoo.hashes import ADAPTER_CONFIG
from lorafuse_bench.zoo.index import index_adapters
from lorafuse_bench.zoo.installed import writable
from lorafuse_bench.zoo.locate import download
from lorafuse_bench.zoo.manifest import Zoo

SUFFIXES = (".ckpt", ".pt", ".bin", ".safetensors")
ALPHA = 16.0
"""LoRA's alpha of the Phi-2 library, for files that do not say theirs."""


@dataclass(frozen=True)
class Found:
    """An expert as its file has it: module to `(A (r, in), B (out, r))`."""

    task: str
    alpha: float
    factors: Mapping[str, tuple[Tensor, Tensor]]


def import_mttl(
    source: str,
    out: Path,
    base: str,
    data: str | None = None,
    alpha: float | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Zoo:
    """Make the new zoo `out` of the experts in the folder or hub repository `source`, trained on `base`.

    A file's name is its expert's. Nothing in a file is run: pickles are read as weights alone, and one that
    holds anything else is refused. alpha: in place of what the files say. LorafuseError names the file.
    """
    writable(out)
    folder = Path(source) if Path(source).is_dir() else _snapshot(source)
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    names = [path.stem for path in files]
    if not files:
        raise LorafuseError(f"{folder} holds no experts ({', '.join(SUFFIXES)}). Name another folder.")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise LorafuseError(f"{folder} holds two files named {twice}. Remove one.")
    tasks = {}
    with new_folder(out) as made:
        for path in files:
            expert = read_expert(path, alpha)
            tasks[path.stem] = [expert.task]
            _write(expert, made / "experts" / path.stem)
        index_adapters(made, base, data, tasks=tasks, report=report, name=out.resolve().name)
    return Zoo.open(out)


def _snapshot(repo: str) -> Path:
    return download(repo, patterns=[f"*{suffix}" for suffix in SUFFIXES], kind="library")


def read_expert(path: Path, alpha: float | None = None) -> Found:
    """The expert in a file; LorafuseError where it is none, or holds more than tensors and plain values."""
    content = _content(path)
    tensors = content.get("expert_weights", content)
    info = content.get("expert_info") or {}
    config = info.get("expert_config") if isinstance(info, dict) else None
    told = config.get("lora_alpha") if isinstance(config, dict) else None
    scale = alpha if alpha is not None else ALPHA if told is None else told
    if not isinstance(scale, int | float) or not POSITIVE.allows(scale):
        raise LorafuseError(f"{path}: lora_alpha {scale!r} is not {POSITIVE.words}. Say it with --alpha.")
    task = info.get("expert_task_name") if isinstance(info, dict) else None
    return Found(str(task or path.stem), float(scale), _factors(tensors, path))


def _content(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise LorafuseError(f"{path} is not a regular file. Remove it.")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise LorafuseError(
            f"{path} holds more than weights, and a pickle can run code. Save its tensors alone, best as safetensors."
        ) from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:160]
        raise LorafuseError(f"{path} cannot be read: {reason}. Restore it, or leave it out.") from error
    if not isinstance(content, dict):
        raise LorafuseError(f"{path} holds a {type(content).__name__}, not tensors by name. Leave it out.")
    return content


def _factors(tensors: Any, path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items() if isinstance(tensors, dict) else ():
        module, _, half = str(key).rpartition(".")
        if (
            half not in ("lora_a", "lora_b")
            or not module
            or not isinstance(tensor, Tensor)
            or tensor.ndim != 2
        ):
            raise LorafuseError(
                f"{path}: {key} is not a matrix named <module>.lora_a or .lora_b. Leave the file out."
            )
        halves.setdefault(module, {})[half] = tensor.T.contiguous()
    for module, pair in halves.items():
        if len(pair) < 2 or pair["lora_a"].shape[0] != pair["lora_b"].shape[1]:
            raise LorafuseError(
                f"{path}: lora_a and lora_b of {module} do not belong together. Restore the file."
            )
    if not halves:
        raise LorafuseError(f"{path} holds no <module>.lora_a and .lora_b. Leave it out.")
    return {module: (pair["lora_a"], pair["lora_b"]) for module, pair in halves.items()}


def _write(expert: Found, folder: Path) -> None:
    """The expert in PEFT's format; each module's own scaling stays alpha over its rank."""
    ranks = {module: a.shape[0] for module, (a, _) in expert.factors.items()}
    rank = max(ranks.values())
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": expert.alpha,
        "rank_pattern": {module: own for module, own in ranks.items() if own != rank},
        "target_modules": sorted(expert.factors),
        "bias": "none",
    }
    tensors = {
        f"base_model.model.{module}.lora_{half}.weight": factor
        for module, pair in expert.factors.items()
        for half, factor in zip("AB", pair, strict=True)
    }
    write_bytes(folder / WEIGHTS, save(tensors))
    write_json(folder / ADAPTER_CONFIG, config)
