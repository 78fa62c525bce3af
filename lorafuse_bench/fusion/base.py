"""What a fusion method is: typed options, what it needs, and how it turns experts into updates."""

from __future__ import annotations

import dataclasses
import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, get_args

from torch import Tensor

from lorafuse_bench.base_model import Base
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.layers import DenseUpdate, RowUpdate, Selection, StaticUpdate, Update
from lorafuse_bench.registry import Named
from lorafuse_bench.registry import option as option

Family = Literal["floor", "reference", "merging", "routing", "ensembling", "adapters"]
Need = Literal["task_id", "fit", "adapter", "train_data"]
Absent = Literal["zero updates", "no candidates"]
CONTROL = "control"
"""The option of every method that fuses experts, beside its own (controls.py)."""
Law = Literal[
    "one expert is itself",
    "zero updates give the base",
    "gauge (A, B) -> (RA, BR⁻¹)",
    "order of the experts",
    "unequal ranks",
    "alphas and rsLoRA",
    "copies of one expert are it",
    "scale of the updates",
    "sign of the updates",
    "gates are shares",
]


@dataclass(frozen=True)
class Merged:
    """What a merge makes, one static update per module: low-rank where it can be, else full-rank.

    `factors[m] = (A (R, in), B (out, R))`, `ΔW_m = B @ A`; or `dense[m] = ΔW_m (out, in)`.
    """

    factors: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    dense: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Prompts:
    """A batch of prompts: `input_ids (rows, tokens)` right-padded, `lengths (rows,)`, one task key a row."""

    input_ids: Tensor
    lengths: Tensor
    tasks: tuple[str, ...]

    @property
    def mask(self) -> Tensor:
        """`(rows, tokens)`, true on prompt tokens."""
        positions = self.input_ids.new_ones(1, self.input_ids.shape[1]).cumsum(1) - 1
        return positions < self.lengths[:, None]

    def split(self, rows: int) -> list[Prompts]:
        """The batch in portions of `rows`, the last one of what is left, all padded as the whole is."""
        starts = range(0, len(self.tasks), rows)
        parts = zip(starts, self.input_ids.split(rows), self.lengths.split(rows), strict=True)
        return [Prompts(ids, lengths, self.tasks[i : i + rows]) for i, ids, lengths in parts]


@dataclass(frozen=True)
class Learned:
    """What was learned on frozen experts: tensors, with which options and settings, the experts in their order.

    `pool` holds experts that were trained jointly with it; None when it serves the zoo's own.
    """

    name: str
    tensors: Mapping[str, Tensor]
    options: Mapping[str, Any]
    settings: Mapping[str, Any]
    experts: tuple[str, ...]
    pool: ExpertPool | None = None
    tasks: tuple[str, ...] = ()
    """Keys of the tasks that it was learned on, in order."""


@dataclass(frozen=True)
class AdapterArtefact:
    """A trained adapter: its tasks in the order of their ids, and what reads its `{"<module>.<parameter>": tensor}`.

    They are read on the CPU when they are used and kept nowhere, as updates hold copies of their own.
    """

    name: str
    tasks: tuple[str, ...]
    read: Callable[[], Mapping[str, Tensor]]


class BlockVisitor(Protocol):
    """Called before each transformer block with `hidden (rows, tokens, h)`."""

    def __call__(self, block: int, hidden: Tensor) -> None: ...


class Runtime(Protocol):
    """What a method may ask of the model it is fused into (implemented by `FusedModel`)."""

    selection: Selection
    base: Base
    """The base as it was loaded: its modules and blocks."""
    pool: ExpertPool

    def adapter(self, method: FusionMethod) -> AdapterArtefact:
        """The zoo's adapter that was trained with this method's options."""

    def artefact(self, method: FusionMethod) -> Learned:
        """The zoo's fit of this method on the pool's experts; LorafuseError where there is none, or a stale one."""

    def visit_blocks(self, prompts: Prompts, visitor: BlockVisitor) -> None:
        """Run the blocks over the prompts, calling `visitor` before each."""


@dataclass(frozen=True)
class Costs:
    """The most that a method costs on small bases, as ratios; `lorafuse check` measures them."""

    parameters: float = 1.5
    """Numbers stored beside the base's, to those of all experts."""
    memory: float = 1.5
    """Numbers in the largest tensor of a pass, to the base's largest."""
    operations: float = 2.0
    """Floating point operations of a pass, to the base's."""
    seconds: float = 8.0
    """Time of a pass, to the base's."""


class FusionMethod(Named, ABC):
    """A way to use N LoRA experts as one model. Options are the dataclass fields of a subclass."""

    family: ClassVar[Family]
    version: ClassVar[str] = "1"
    needs: ClassVar[frozenset[Need]] = frozenset()
    """What it needs, with some of its options at least."""
    fuses_experts: ClassVar[bool] = True
    """Whether it needs experts; without any, such a method is refused."""
    costs: ClassVar[Costs] = Costs()
    """The most that it costs; who needs more declares it."""
    absent_experts: ClassVar[Absent] = "zero updates"
    """What experts that do not adapt a module are there."""

    @abstractmethod
    def updates(self, runtime: Runtime) -> Mapping[str, Update]:
        """The update of each adapted module; modules left out stay the base's."""

    def check(self, pool: ExpertPool) -> None:
        """LorafuseError when these options do not fit the pool. Called before anything runs, so keep it quick."""
        if self.fuses_experts:
            pool.required_by(f"method '{self.name}'")

    def check_tasks(self, pool: ExpertPool, tasks: Sequence[str]) -> None:
        """LorafuseError when one of the tasks (keys) about to be evaluated cannot be served by the pool."""

    def given(self, pool: ExpertPool) -> ExpertPool:
        """The experts it works on where those of the zoo are `pool`: these, but for a control (fusion/controls.py)."""
        return pool

    @property
    def needed(self) -> frozenset[Need]:
        """What it needs with these options."""
        return self.needs

    @property
    def merge_before(self) -> bool:
        """Whether factors are combined before multiplying: meaningful only from a shared initialisation."""
        return False

    @property
    def laws_broken(self) -> dict[Law, str]:
        """The laws that do not hold with these options, and why; all others are promised (and tested)."""
        if self.merge_before:
            return {"gauge (A, B) -> (RA, BR⁻¹)": "factors are combined before they are multiplied"}
        return {}

    def select(self, runtime: Runtime, prompts: Prompts) -> Tensor | None:
        """Expert (or task) index per row and block `(rows, blocks)`, or None if all rows are treated the same."""
        return None

    @classmethod
    def faults(cls) -> Iterator[str]:
        """What makes it no method: what it declares, and options that cannot be left out."""
        if getattr(cls, "family", None) not in get_args(Family):
            yield f"has no family: give it one of {', '.join(get_args(Family))}"
        if not isinstance(cls.version, str):
            yield f"has a version, {cls.version!r}, that is no text"
        if not isinstance(cls.needs, frozenset) or cls.needs - set(get_args(Need)):
            yield f"has needs {cls.needs!r} that are no frozenset of {', '.join(get_args(Need))}"
        if cls.absent_experts not in get_args(Absent):
            yield f"has absent_experts = {cls.absent_experts!r}: say one of {', '.join(get_args(Absent))}"
        if not isinstance(cls.costs, Costs):
            yield f"has costs {cls.costs!r} that are no Costs: write `costs = Costs(parameters=3)`"
        yield from cls._faults_of_options()

    @classmethod
    def _faults_of_options(cls) -> Iterator[str]:
        if CONTROL in cls.option_names():
            yield f"has an option {CONTROL}, which every method has: give it another name"
        required = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]  # type: ignore[arg-type]
        if required:
            yield f"has options without a default: {', '.join(required)}"
            return
        try:
            broken = cls().laws_broken
        except Exception as error:  # a foreign constructor may raise anything
            yield f"cannot be made with its defaults ({type(error).__name__}: {error})"
            return
        for law, why in broken.items():
            if law not in get_args(Law):
                yield f"breaks {law!r}, which is no law: {', '.join(get_args(Law))}"
            elif not isinstance(why, str) or not why.strip():
                yield f"breaks {law!r} and does not say why: give laws_broken a reason"

    @classmethod
    def cost(cls) -> str:
        """What it costs: the sentence of its docstring that begins with "Cost:", or "-"."""
        text = " ".join((inspect.getdoc(cls) or "").split())
        match = re.search(r"Cost: (.+?)\.( |$)", text)
        return match[1] if match else "-"

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """Names of the method's options."""
        return tuple(f.name for f in dataclasses.fields(cls))  # type: ignore[arg-type]

    def options(self) -> dict[str, Any]:
        """All options with their values, defaults included."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]

    def label(self) -> str:
        """Canonical name: `moa`, or `moa:decision=vote+pooling=mean` with the options that differ from default."""
        changed = [
            f"{f.name}={_text(getattr(self, f.name))}"
            for f in dataclasses.fields(self)  # type: ignore[arg-type]
            if getattr(self, f.name) != f.default
        ]
        return self.name + (":" + "+".join(changed) if changed else "")


class Merge(FusionMethod):
    """A method that collapses the experts to one update per module before the model runs."""

    family: ClassVar[Family] = "merging"

    @abstractmethod
    def fuse(self, pool: ExpertPool) -> Merged:
        """The merge, of any rank. Must not write to the pool's tensors."""

    def collapse(self, pool: ExpertPool, learned: Callable[[FusionMethod], Learned]) -> Merged:
        """`fuse`, for methods that must ask `learned` for their fit too."""
        return self.fuse(pool)

    def updates(self, runtime: Runtime) -> Mapping[str, Update]:
        return static_updates(self.collapse(runtime.pool.wide(), runtime.artefact))


def static_updates(merged: Merged) -> dict[str, Update]:
    """The update of each module that a merge changes."""
    low: dict[str, Update] = {m: StaticUpdate(a, b) for m, (a, b) in merged.factors.items()}
    return low | {m: DenseUpdate(delta) for m, delta in merged.dense.items()}


class RowRouting(FusionMethod):
    """A method that gives each row (and block) one expert."""

    family: ClassVar[Family] = "routing"

    @property
    def one_expert_per_sequence(self) -> bool:
        """Whether a row's expert is the same in all blocks, so that a server can apply it as one adapter."""
        return True

    def experts(self, runtime: Runtime) -> ExpertPool:
        """The experts to choose among, in the pool's order."""
        return runtime.pool

    def updates(self, runtime: Runtime) -> Mapping[str, Update]:
        return row_updates(self.experts(runtime), runtime)


@dataclass(frozen=True)
class Members:
    """What an ensemble runs on every row: expert per block `index (M, blocks)`, `weights (M,)` of sum 1."""

    index: Tensor
    weights: Tensor


class Ensembling(FusionMethod):
    """A method that runs several members on every row and combines their next-token distributions.

    Members may come in chunks: `add` takes in a chunk's logits, `log_probabilities` reads the total.
    `chunk` is the largest number of members in one forward pass, None for as many as a batch has rows.
    """

    family: ClassVar[Family] = "ensembling"
    chunk: int | None

    @abstractmethod
    def members(self, runtime: Runtime) -> Members:
        """The members, in a fixed order."""

    @abstractmethod
    def add(self, total: Tensor | None, logits: Tensor, weights: Tensor) -> Tensor:
        """The total `(..., V)` with a chunk's `logits (M, ..., V)`, in fp32, and `weights (M,)` taken in."""

    @abstractmethod
    def log_probabilities(self, total: Tensor) -> Tensor:
        """The combined distribution's logarithm `(..., V)` from the total over all members."""

    def updates(self, runtime: Runtime) -> Mapping[str, Update]:
        return row_updates(runtime.pool, runtime)


def row_updates(pool: ExpertPool, runtime: Runtime) -> dict[str, Update]:
    """Updates that give each row the expert of `pool` that the runtime's selection names."""
    return {
        m: RowUpdate(stack, runtime.selection, runtime.base.block_of(m), scattered=".experts." in m)
        for m, stack in pool.modules.items()
    }


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
