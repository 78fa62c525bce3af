"""ExpertPool: N PEFT LoRA adapters of one base model, checked, hashed and stacked."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import sha256_file
from lorafuse_bench.peft_settings import PeftSettings
from lorafuse_bench.peft_tensors import WEIGHTS, BaseCopy, read_tensors
from lorafuse_bench.zoo.hashes import adapter_files, check_alone, check_files
from lorafuse_bench.zoo.manifest import ExpertEntry, Zoo
from lorafuse_bench.zoo.pools import named


@dataclass(frozen=True)
class LoraExpert:
    """One adapter as read from disk: `ΔW_m = scaling_m · B_m @ A_m` for each adapted module m.

    `factors[m] = (A (r_m, in), B (out, r_m))`, fp32, unscaled; `scaling[m] = alpha_m / r_m`, or
    `alpha_m / sqrt(r_m)` for rsLoRA. `base` is the base's name as the adapter tells it; `copies` are
    parameters of the base that its file holds too, which must equal the base's own.
    """

    name: str
    tasks: tuple[str, ...]
    path: Path
    sha256: str
    base_sha256: str | None
    rank: int
    alpha: float
    factors: Mapping[str, tuple[Tensor, Tensor]]
    scaling: Mapping[str, float]
    base: str | None = None
    copies: tuple[BaseCopy, ...] = ()

    @classmethod
    def load(
        cls, path: Path, name: str, tasks: str | Sequence[str], base_sha256: str | None = None
    ) -> LoraExpert:
        """Read a PEFT folder; LorafuseError names the adapter and what cannot be fused exactly."""
        settings = PeftSettings.load(path, name)
        factors, copies = read_tensors(path, name)
        ranks = {module: a.shape[0] for module, (a, _) in factors.items()}
        return cls(
            name=name,
            tasks=(tasks,) if isinstance(tasks, str) else tuple(tasks),
            path=path,
            sha256=sha256_file(path / WEIGHTS),
            base_sha256=base_sha256,
            rank=settings.rank,
            alpha=settings.alpha,
            factors=factors,
            scaling=settings.scalings(ranks, name),
            base=settings.base,
            copies=copies,
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
        """The experts that `names` mean (zoo/pools.py), each checked against the manifest's hashes."""
        return cls.from_entries(zoo, named(zoo, names))

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
            folder, owner = zoo.root / entry.path, f"adapter '{entry.name}'"
            check_files(folder, adapter_files(folder), entry.files, owner)
            check_alone(folder, owner)
            expert = LoraExpert.load(folder, entry.name, entry.tasks, entry.base_sha256)
            if expert.sha256 != entry.sha256:
                raise LorafuseError(
                    f"adapter '{entry.name}' ({expert.path / WEIGHTS}) is not the file the manifest describes:"
                    f" sha256 {expert.sha256[:12]}, expected {entry.sha256[:12]}. Restore or retrain it."
                )
            experts.append(expert)
        return cls(experts)

    def __len__(self) -> int:
        return len(self.experts)

    def to(self, device: torch.device) -> ExpertPool:
        """The same experts with their stacks on `device`."""
        moved = copy.copy(self)
        moved.modules = {
            name: replace(stack, A=stack.A.to(device), B=stack.B.to(device), scaling=stack.scaling.to(device))
            for name, stack in self.modules.items()
        }
        return moved

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

    def index_of_task(self, task: str, preferred: Collection[str] = ()) -> int:
        """Position of the expert trained on `task`, where several were of the one whose name is `preferred`.

        LorafuseError when there is none, or no telling which.
        """
        serving = [i for i, expert in enumerate(self.experts) if task in expert.tasks]
        serving = [i for i in serving if self.names[i] in preferred] or serving
        if len(serving) > 1:
            names = [self.names[i] for i in serving]
            raise LorafuseError(
                f"task '{task}' is served by experts {', '.join(names)}. Say by which: oracle:expert={names[0]}"
                f" (of lm_eval: method=oracle,expert={names[0]}), or leave the others out of --experts (experts=)."
            )
        if serving:
            return serving[0]
        covered = ", ".join(task for expert in self.experts for task in expert.tasks)
        raise LorafuseError(
            f"no expert for task '{task}': the pool covers {covered}. Add one, or drop the task."
        )


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
