"""ExpertPool: N PEFT LoRA adapters of one base model, checked, hashed and stacked."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import sha256_file
from lorafuse_bench.peft_settings import PeftSettings
from lorafuse_bench.peft_tensors import WEIGHTS, BaseCopy, Shapes, read_shapes, read_tensors, shapes_of
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

    def scaled(self, module: str) -> tuple[Tensor, Tensor]:
        """`(A, s B)` of a module; of a pool's expert, as the pool holds them."""
        held = self.factors
        if isinstance(held, _Held) and held.scaling(module) == torch.tensor(self.scaling[module]):
            return held.scaled(module)
        a, b = held[module]
        return a, b * self.scaling[module]

    @property
    def targets(self) -> tuple[str, ...]:
        """Sorted last components of the adapted modules' names, such as `q_proj`."""
        return tuple(sorted({module.rsplit(".", 1)[-1] for module in self.factors}))


@dataclass(frozen=True)
class ModuleStack:
    """The experts' factors for one module, padded with zeros to one rank.

    `A (N, r, in)`; `B (N, out, r)` with the scaling folded in, so `ΔW_i = B[i] @ A[i]`;
    `scaling (N,)`, what was folded in. An expert that does not adapt the module has zero factors,
    rank 0 and scaling 1. A pool's lie in memory as `(r, N, in)` and `(r, N, out)`: the fused layers use them so.
    """

    A: Tensor
    B: Tensor
    scaling: Tensor
    ranks: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of the linear map."""
        return self.B.shape[1], self.A.shape[2]

    @classmethod
    def zeros(cls, shape: tuple[int, int], ranks: Sequence[int], dtype: torch.dtype) -> ModuleStack:
        """Zero factors of experts of these ranks, as a pool lays them."""
        (out, into), n, r = shape, len(ranks), max(ranks)
        a, b = (torch.zeros(r, n, width, dtype=dtype) for width in (into, out))
        return cls(a.transpose(0, 1), b.permute(1, 2, 0), torch.ones(n), tuple(ranks))

    def to(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> ModuleStack:
        """The same factors elsewhere, or in another type."""
        return replace(
            self,
            A=self.A.to(device=device, dtype=dtype),
            B=self.B.to(device=device, dtype=dtype),
            scaling=self.scaling.to(device=device),
        )


@dataclass(frozen=True, eq=False)
class _Held(Mapping[str, tuple[Tensor, Tensor]]):
    """The factors of a pool's expert number `index`: read from the pool's stacks, which alone hold them."""

    modules: Mapping[str, ModuleStack]
    index: int
    names: tuple[str, ...]

    def __getitem__(self, module: str) -> tuple[Tensor, Tensor]:
        a, b = self.scaled(module)
        return a, b / self.scaling(module)

    def scaled(self, module: str) -> tuple[Tensor, Tensor]:
        """A, and B with the scaling folded in: views."""
        if module not in self.names:
            raise KeyError(module)
        stack = self.modules[module]
        rank = stack.ranks[self.index]
        return stack.A[self.index, :rank], stack.B[self.index, :, :rank]

    def scaling(self, module: str) -> Tensor:
        """What is folded into B."""
        return self.modules[module].scaling[self.index]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, eq=False)
class _Widened(Mapping[str, ModuleStack]):
    """Stacks in fp32 or wider, made as they are asked for, one at a time."""

    modules: Mapping[str, ModuleStack]

    def __getitem__(self, module: str) -> ModuleStack:
        stack = self.modules[module]
        return stack.to(dtype=torch.promote_types(stack.A.dtype, torch.float32))

    def __iter__(self) -> Iterator[str]:
        return iter(self.modules)

    def __len__(self) -> int:
        return len(self.modules)


@dataclass(frozen=True, eq=False)
class _Watched(Mapping[str, ModuleStack]):
    """Stacks that tell, when another one is asked for, that the one before is done with."""

    modules: Mapping[str, ModuleStack]
    tell: Callable[[], None]
    asked: set[str] = field(default_factory=set)

    def __getitem__(self, module: str) -> ModuleStack:
        if self.asked and module not in self.asked:
            self.tell()
        self.asked.add(module)
        return self.modules[module]

    def __iter__(self) -> Iterator[str]:
        return iter(self.modules)

    def __len__(self) -> int:
        return len(self.modules)


class ExpertPool:
    """The experts of one base model, in a fixed order, stacked per module; it may be empty.

    A module that only some experts adapt gets zero updates from the others. The stacks hold each factor once, in one
    type; `experts` read theirs from them. The tensors belong to the pool: callers must not write to them.
    """

    def __init__(
        self,
        experts: Iterable[LoraExpert],
        dtype: torch.dtype | None = None,
        shapes: Sequence[Shapes] | None = None,
    ) -> None:
        """dtype: what the stacks hold; the experts' own type where None.

        shapes: of each expert's factors, where `experts` are only read as they are asked for, one at a time.
        """
        if shapes is None:
            experts = tuple(experts)
            shapes = [shapes_of(expert.factors) for expert in experts]
        if dtype is None:
            own = (a.dtype for expert in experts for a, _ in expert.factors.values())
            dtype = next(own, torch.float32)
        modules = sorted({module for each in shapes for module in each}, key=_natural)
        self.modules: Mapping[str, ModuleStack] = {m: _room(shapes, m, dtype) for m in modules}
        self.dtype = dtype
        self.experts: tuple[LoraExpert, ...] = ()
        for expert in experts:
            self._take(expert)
        _check_pool(self.experts)

    def _take(self, expert: LoraExpert) -> None:
        """Copy the next expert's factors into the stacks; LorafuseError where their shapes are not the others'."""
        for module in expert.factors:
            a, b = expert.scaled(module)
            stack = self.modules[module]
            if (shape := (b.shape[0], a.shape[1])) != stack.shape:
                owner = next(e.name for e in self.experts if module in e.factors)
                raise LorafuseError(
                    f"adapter '{expert.name}' updates {module} as {shape[0]}x{shape[1]}, adapter '{owner}' as"
                    f" {stack.shape[0]}x{stack.shape[1]}. They belong to different bases."
                )
            i, rank = len(self.experts), a.shape[0]
            stack.A[i, :rank] = a
            stack.B[i, :, :rank] = b
            stack.scaling[i] = expert.scaling[module]
        held = _Held(self.modules, len(self.experts), tuple(expert.factors))
        self.experts += (replace(expert, factors=held),)

    @classmethod
    def from_zoo(
        cls, zoo: Zoo, names: Sequence[str] | None = None, dtype: torch.dtype = torch.float32
    ) -> ExpertPool:
        """The experts that `names` mean (zoo/pools.py), each checked against the manifest's hashes."""
        return cls.from_entries(zoo, named(zoo, names), dtype)

    @classmethod
    def from_entries(
        cls, zoo: Zoo, entries: Sequence[ExpertEntry], dtype: torch.dtype = torch.float32
    ) -> ExpertPool:
        """Adapters described by manifest entries, held in `dtype`; refuses altered files and other bases.

        Files are read one after the other, each into its place.
        """
        folders = []
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
            folders.append(folder)
        shapes = [read_shapes(folder, entry.name) for folder, entry in zip(folders, entries, strict=True)]
        return cls(map(_described, folders, entries), dtype, shapes)

    def __len__(self) -> int:
        return len(self.experts)

    def to(self, device: torch.device) -> ExpertPool:
        """The same experts with their stacks on `device`."""
        moved = copy.copy(self)
        moved.modules = {name: stack.to(device) for name, stack in self.modules.items()}
        moved.experts = tuple(
            replace(expert, factors=_Held(moved.modules, i, tuple(expert.factors)))
            for i, expert in enumerate(self.experts)
        )
        return moved

    def wide(self) -> ExpertPool:
        """The same experts as merges compute with them: in fp32, of which one module's are held at a time."""
        widened = copy.copy(self)
        widened.modules = _Widened(self.modules)
        return widened

    def watched(self, tell: Callable[[], None]) -> ExpertPool:
        """The same experts; `tell` is called after each module that a method is done with."""
        watched = copy.copy(self)
        watched.modules = _Watched(self.modules, tell)
        return watched

    def required_by(self, who: str) -> ExpertPool:
        """This pool; LorafuseError naming `who` needs experts when it is empty."""
        if not self.experts:
            raise LorafuseError(
                f"{who} needs experts, and there are none. Name some of the zoo's, or train some with"
                " `lorafuse train experts`."
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
                f"task '{task}' is served by experts {', '.join(names)}. Choose one: oracle:expert={names[0]}"
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


def _described(folder: Path, entry: ExpertEntry) -> LoraExpert:
    """The adapter in `folder`; LorafuseError unless its weights are those that the entry describes."""
    expert = LoraExpert.load(folder, entry.name, entry.tasks, entry.base_sha256)
    if expert.sha256 != entry.sha256:
        raise LorafuseError(
            f"adapter '{entry.name}' ({expert.path / WEIGHTS}) is not the file the manifest describes:"
            f" sha256 {expert.sha256[:12]}, expected {entry.sha256[:12]}. Restore or retrain it."
        )
    return expert


def _room(shapes: Sequence[Shapes], module: str, dtype: torch.dtype) -> ModuleStack:
    """Zeros for every expert's factors of one module; its shape is the first expert's."""
    ranks = [each[module][0] if module in each else 0 for each in shapes]
    _, out, into = next(each[module] for each in shapes if module in each)
    return ModuleStack.zeros((out, into), ranks, dtype)


def _natural(module: str) -> list[tuple[int, str]]:
    """Sort key that puts layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in module.split(".")]
