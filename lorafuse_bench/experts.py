"""ExpertPool: N PEFT LoRA adapters of one base model, checked, hashed and stacked."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lorafuse_bench.errors import LorafuseError, unknown
from lorafuse_bench.files import sha256_file
from lorafuse_bench.zoo.manifest import ExpertEntry, Zoo

WEIGHTS = "adapter_model.safetensors"
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])(\.default)?\.weight")
# Initialisations that also rewrite the base weights: the adapter alone is not the update.
_REWRITES_BASE = ("pissa", "olora", "corda", "loftq")


@dataclass(frozen=True)
class LoraExpert:
    """One adapter as read from disk: `ΔW_m = scaling_m · B_m @ A_m` for each adapted module m.

    `factors[m] = (A (r_m, in), B (out, r_m))`, fp32, unscaled; `scaling[m] = alpha_m / r_m`, or
    `alpha_m / sqrt(r_m)` for rsLoRA.
    """

    name: str
    task: str
    path: Path
    sha256: str
    base_sha256: str | None
    rank: int
    alpha: float
    factors: Mapping[str, tuple[Tensor, Tensor]]
    scaling: Mapping[str, float]

    @classmethod
    def load(cls, path: Path, name: str, task: str, base_sha256: str | None = None) -> LoraExpert:
        """Read a PEFT folder; LorafuseError names the adapter and what cannot be fused exactly."""
        config = _read_config(path, name)
        tensors = _read_tensors(path, name)
        factors = _pair_factors(tensors, name)
        return cls(
            name=name,
            task=task,
            path=path,
            sha256=sha256_file(path / WEIGHTS),
            base_sha256=base_sha256,
            rank=int(config["r"]),
            alpha=float(config["lora_alpha"]),
            factors=factors,
            scaling={m: _scaling(config, m, a.shape[0]) for m, (a, _) in factors.items()},
        )

    @property
    def targets(self) -> tuple[str, ...]:
        """Sorted last components of the adapted modules' names, such as `q_proj`."""
        return tuple(sorted({module.rsplit(".", 1)[-1] for module in self.factors}))


@dataclass(frozen=True)
class ModuleStack:
    """The experts' factors for one module, padded with zeros to one rank.

    `A (N, r, in)`; `B (N, out, r)` with the scaling folded in, so `ΔW_i = B[i] @ A[i]`;
    `scaling (N,)`, what was folded in. An expert that does not adapt the module has zero factors,
    rank 0 and scaling 1.
    """

    A: Tensor
    B: Tensor
    scaling: Tensor
    ranks: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of the linear map."""
        return self.B.shape[1], self.A.shape[2]


class ExpertPool:
    """The experts of one base model, in a fixed order, stacked per module; it may be empty.

    A module that only some experts adapt gets zero updates from the others. The tensors belong to
    the pool: callers must not write to them.
    """

    def __init__(self, experts: Sequence[LoraExpert]) -> None:
        _check_pool(experts)
        self.experts = tuple(experts)
        modules = sorted({m for e in experts for m in e.factors}, key=_natural)
        self.modules: dict[str, ModuleStack] = {m: _stack(experts, m) for m in modules}

    @classmethod
    def from_zoo(cls, zoo: Zoo, names: Sequence[str] | None = None) -> ExpertPool:
        """The zoo's experts, or those named, each checked against the manifest's hashes."""
        known = {entry.name: entry for entry in zoo.manifest.experts}
        for name in names or ():
            if name not in known:
                raise unknown(f"expert of zoo '{zoo.name}'", name, known)
        return cls.from_entries(zoo, [known[name] for name in (known if names is None else names)])

    @classmethod
    def from_entries(cls, zoo: Zoo, entries: Sequence[ExpertEntry]) -> ExpertPool:
        """Adapters described by manifest entries; refuses altered files and other bases."""
        experts = []
        for entry in entries:
            if entry.base_sha256 != zoo.manifest.base.sha256:
                raise LorafuseError(
                    f"adapter '{entry.name}' in {zoo.root} was trained on another base"
                    f" ({entry.base_sha256[:12]}, the zoo's is {zoo.manifest.base.sha256[:12]})."
                    " Remove it from the zoo or train it on this base."
                )
            expert = LoraExpert.load(zoo.root / entry.path, entry.name, entry.task, entry.base_sha256)
            if expert.sha256 != entry.sha256:
                raise LorafuseError(
                    f"adapter '{entry.name}' ({expert.path / WEIGHTS}) is not the file the manifest describes:"
                    f" sha256 {expert.sha256[:12]}, expected {entry.sha256[:12]}. Restore or retrain it."
                )
            experts.append(expert)
        return cls(experts)

    def __len__(self) -> int:
        return len(self.experts)

    def required_by(self, who: str) -> ExpertPool:
        """This pool; LorafuseError naming `who` needs experts when it is empty."""
        if not self.experts:
            raise LorafuseError(
                f"{who} needs experts, and the zoo has none. Train some with `lorafuse train experts`."
            )
        return self

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(expert.name for expert in self.experts)

    def index_of_task(self, task: str) -> int:
        """Position of the expert trained on `task`; LorafuseError when there is none."""
        for i, expert in enumerate(self.experts):
            if expert.task == task:
                return i
        covered = ", ".join(expert.task for expert in self.experts)
        raise LorafuseError(
            f"no expert for task '{task}': the pool covers {covered}. Add one, or drop the task."
        )


def _read_config(path: Path, name: str) -> dict[str, Any]:
    """adapter_config.json, refusing every feature whose update is not `scaling · B @ A`."""
    file = path / "adapter_config.json"
    if not file.is_file():
        raise LorafuseError(f"adapter '{name}': no {file}. Give a folder in PEFT format.")
    try:
        config: dict[str, Any] = json.loads(file.read_text())
    except ValueError as error:
        raise LorafuseError(
            f"adapter '{name}': {file} is not JSON ({error}). Save the adapter again."
        ) from error
    init = str(config.get("init_lora_weights", "")).lower()
    refused = {
        f"type {config.get('peft_type')}": config.get("peft_type", "LORA") != "LORA",
        "DoRA": config.get("use_dora"),
        "a trained bias": config.get("bias", "none") != "none" or config.get("lora_bias"),
        f"modules_to_save {config.get('modules_to_save')}": config.get("modules_to_save"),
        "trainable_token_indices": config.get("trainable_token_indices"),
        "target_parameters": config.get("target_parameters"),
        "QALoRA": config.get("use_qalora"),
        "activated LoRA": config.get("alora_invocation_tokens"),
        f"the base-rewriting initialisation '{init}'": init.startswith(_REWRITES_BASE),
    }
    for feature, present in refused.items():
        if present:
            raise LorafuseError(
                f"adapter '{name}' uses {feature}, which cannot be fused as a plain low-rank update ({file})."
                " Train it as plain LoRA."
            )
    for key in ("r", "lora_alpha"):
        if not isinstance(config.get(key), int | float) or config[key] <= 0:
            raise LorafuseError(f"adapter '{name}': {file}: {key} must be a positive number. Save it again.")
    return config


def _read_tensors(path: Path, name: str) -> dict[str, Tensor]:
    file = path / WEIGHTS
    if not file.is_file():
        pickles = sorted(
            p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.pkl") for p in path.glob(pattern)
        )
        found = f" ({', '.join(pickles)} is a pickle, which can run code)" if pickles else ""
        raise LorafuseError(f"adapter '{name}': no {file}{found}. Save it with safe_serialization=True.")
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise LorafuseError(
            f"adapter '{name}': {file} is damaged ({error}). Restore or retrain it."
        ) from error


def _pair_factors(tensors: Mapping[str, Tensor], name: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Module name to (A, B) in fp32; every tensor must be half of such a pair, finite, of one rank."""
    halves: dict[str, dict[str, Tensor]] = {}
    for key in sorted(tensors):
        match = _KEY.fullmatch(key)
        if match is None:
            raise LorafuseError(
                f"adapter '{name}': unexpected tensor {key}. Only lora_A and lora_B of linears are fused."
            )
        if not torch.isfinite(tensors[key]).all():
            raise LorafuseError(f"adapter '{name}': {key} holds NaN or infinity. Retrain or restore it.")
        halves.setdefault(match["module"], {})[match["factor"]] = tensors[key].float()
    if not halves:
        raise LorafuseError(f"adapter '{name}' is empty: its file holds no LoRA factors. Save it again.")
    for module, half in halves.items():
        if set(half) != {"A", "B"} or half["A"].shape[0] != half["B"].shape[1]:
            raise LorafuseError(
                f"adapter '{name}': lora_A and lora_B of {module} do not fit each other. Save it again."
            )
    return {module: (half["A"], half["B"]) for module, half in halves.items()}


def _scaling(config: Mapping[str, Any], module: str, rank: int) -> float:
    """`alpha / r`, or `alpha / sqrt(r)` for rsLoRA, with the module's own alpha and rank."""
    alpha = float(config["lora_alpha"])
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            alpha = float(value)
            break
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _check_pool(experts: Sequence[LoraExpert]) -> None:
    seen: dict[str, Path] = {}
    for expert in experts:
        if expert.name in seen:
            raise LorafuseError(
                f"two adapters are named '{expert.name}' ({seen[expert.name]} and {expert.path}). Rename one."
            )
        seen[expert.name] = expert.path
    bases = {e.base_sha256: e.name for e in experts if e.base_sha256 is not None}
    if len(bases) > 1:
        first, second = list(bases.values())[:2]
        raise LorafuseError(
            f"adapters '{first}' and '{second}' were trained on different bases. Use one base."
        )
    shapes: dict[str, tuple[tuple[int, int], str]] = {}
    for expert in experts:
        for module, (a, b) in expert.factors.items():
            shape = (b.shape[0], a.shape[1])
            expected, owner = shapes.setdefault(module, (shape, expert.name))
            if shape != expected:
                raise LorafuseError(
                    f"adapter '{expert.name}' updates {module} as {shape[0]}x{shape[1]},"
                    f" adapter '{owner}' as {expected[0]}x{expected[1]}. They belong to different bases."
                )


def _stack(experts: Sequence[LoraExpert], module: str) -> ModuleStack:
    present = {i: e.factors[module] for i, e in enumerate(experts) if module in e.factors}
    ranks = tuple(present[i][0].shape[0] if i in present else 0 for i in range(len(experts)))
    a, b = next(iter(present.values()))
    stacked_a = a.new_zeros(len(experts), max(ranks), a.shape[1])
    stacked_b = b.new_zeros(len(experts), b.shape[0], max(ranks))
    scaling = a.new_ones(len(experts))
    for i, (a, b) in present.items():
        scaling[i] = experts[i].scaling[module]
        stacked_a[i, : ranks[i]] = a
        stacked_b[i, :, : ranks[i]] = b * scaling[i]
    return ModuleStack(stacked_a, stacked_b, scaling, ranks)


def _natural(module: str) -> list[tuple[int, str]]:
    """Sort key that puts layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in module.split(".")]
