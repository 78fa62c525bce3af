"""What multi-task adapters share: how they attach to a base, know a row's task, start, load and fold."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from lorafuse_bench.base_model import Base
from lorafuse_bench.errors import LorafuseError, unknown
from lorafuse_bench.fusion.base import Family, FusionMethod, Need, Prompts, Runtime, option
from lorafuse_bench.layers import BASE, Selection, Update, linear_shape
from lorafuse_bench.placement import computes_on


@dataclass(frozen=True)
class Place:
    """Where an update is: its block, how many tasks it is trained on, and what knows the rows' tasks.

    `derived`: what such an update once derived from the base's weight here, there while it is made; empty where it must
    do so itself.
    """

    block: int
    tasks: int
    selection: Selection
    derived: Mapping[str, Tensor] = field(default_factory=dict)

    def of_task(self, table: Tensor, x: Tensor) -> Tensor:
        """`(rows, ...)`, each row's entry of `table (tasks, ...)`; `(1, ...)` where all rows share one.

        A task that was not trained on gets the mean of the trained ones' entries (MoORE, section 4.3).
        """
        if self.selection.index is None:
            return table.mean(0, keepdim=True)
        only = self.selection.uniform(self.block)
        if only is not None:
            return table.mean(0, keepdim=True) if only == BASE else table[only : only + 1]
        return torch.cat([table, table.mean(0, keepdim=True)])[self.selection.rows(self.block, x)]


class TrainedUpdate(Update):
    """An update with parameters of its own, in fp32 and on the base's device when made.

    As `reset` leaves it, its output is exactly the base's. The same code runs in training and after.
    """

    @abstractmethod
    def reset(self, generator: torch.Generator) -> None:
        """Fill in the parameters' first values."""

    def gates(self, x: Tensor) -> Tensor | None:
        """Weights of the experts `(rows or 1, tokens or 1, experts)` for the input `x`; None without experts."""
        return None

    def auxiliary(self, mask: Tensor) -> Tensor | None:
        """What the last pass in training mode adds to the loss; `mask (rows, tokens)` is true on real tokens."""
        return None

    def derived(self) -> dict[str, Tensor]:
        """What follows from the base's weight alone and takes long to compute, to be saved beside the parameters."""
        return {}

    def fold(self) -> None:
        """Compute once what inference would compute in every pass; parameters must not change any more."""

    @property
    def size(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


@dataclass(frozen=True)
class TrainedAdapter(FusionMethod):
    """A method that uses no experts: new parameters beside a frozen base, trained on all tasks at once."""

    targets: str | None = option(
        None, "adapted linear maps, such as q_proj/v_proj; by default all in the transformer blocks"
    )
    trained_on: str | None = option(None, "suite it was trained on; by default that of the zoo's first such")

    family: ClassVar[Family] = "adapters"
    needs: ClassVar[frozenset[Need]] = frozenset({"adapter"})
    fuses_experts: ClassVar[bool] = False

    @abstractmethod
    def update(self, base: nn.Module, place: Place) -> TrainedUpdate:
        """A new update for one linear map."""

    @property
    def tells_tasks_apart(self) -> bool:
        """Whether a row's task makes a difference."""
        return "task_id" in self.needs

    def adapted(self, base: Base) -> dict[str, nn.Module]:
        """The modules that get an update, by name."""
        return linear_maps(base, self.targets)

    def attach(
        self,
        base: Base,
        tasks: int,
        selection: Selection,
        saved: Mapping[str, Tensor] | None = None,
    ) -> dict[str, TrainedUpdate]:
        """A new update for every adapted module, by name; `saved` may hold what it would derive from the base."""
        return dict(self.attached(base, tasks, selection, saved))

    def attached(
        self,
        base: Base,
        tasks: int,
        selection: Selection,
        saved: Mapping[str, Tensor] | None = None,
    ) -> Iterator[tuple[str, TrainedUpdate]]:
        """`attach` one after the other."""
        derived = by_module(saved or {})
        for name, module in self.adapted(base).items():
            own = derived.pop(name, {})
            update = self.update(module, Place(base.block_of(name), tasks, selection, own))
            own.clear()  # updates keep their place, and with it all that was read for them would stay in memory
            yield name, update

    def updates(self, runtime: Runtime) -> Mapping[str, Update]:
        """One after the other in the type that the base computes in, so that fp32 is there of one alone."""
        artefact = runtime.adapter(self)
        tensors = dict(artefact.read())
        updates = {}
        for name, update in self.attached(runtime.base, len(artefact.tasks), runtime.selection, tensors):
            load(update, name, tensors, artefact.name)
            update.requires_grad_(False).eval().fold()
            updates[name] = update.to(*runtime.base.place_of(name))
        if tensors:
            raise _unfit(artefact.name, min(tensors))
        return updates

    def select(self, runtime: Runtime, prompts: Prompts) -> Tensor | None:
        if not self.tells_tasks_apart:
            return None
        tasks = runtime.adapter(self).tasks
        index = [tasks.index(task) if task in tasks else BASE for task in prompts.tasks]
        column = torch.tensor(index, device=prompts.input_ids.device)[:, None]
        return column.expand(-1, runtime.base.blocks).clone()


def linear_maps(base: Base, targets: str | None = None) -> dict[str, nn.Module]:
    """The linear maps inside the transformer blocks, or those whose last name is among `a/b/c`, by name."""
    inside = base.linear_maps()
    if targets is None:
        return inside
    present = {name.rsplit(".", 1)[-1] for name in inside}
    wanted = targets.split("/")
    for name in wanted:
        if name not in present:
            raise unknown("linear map", name, present, "of the base")
    return {name: module for name, module in inside.items() if name.rsplit(".", 1)[-1] in wanted}


def parameter(base: nn.Module, *shape: int) -> nn.Parameter:
    """A parameter of fp32 where `base` computes, without values."""
    return nn.Parameter(torch.empty(*shape, device=computes_on(base)))


def kaiming_(tensor: Tensor, generator: torch.Generator) -> None:
    """Uniform in ±1/sqrt(in) for `tensor (..., in)`, PEFT's start of A; drawn on the CPU, so alike everywhere."""
    drawn = torch.rand(tensor.shape, generator=generator) * 2 - 1
    with torch.no_grad():
        tensor.copy_(drawn * tensor.shape[-1] ** -0.5)


def initialise(updates: Mapping[str, TrainedUpdate], seed: int) -> None:
    """First values for all updates, in order, from one seed."""
    generator = torch.Generator().manual_seed(seed)
    for update in updates.values():
        update.reset(generator)


def tensors_of(updates: Mapping[str, TrainedUpdate]) -> dict[str, Tensor]:
    """All parameters by `<module>.<parameter>`."""
    return {
        f"{name}.{key}": tensor.detach()
        for name, update in updates.items()
        for key, tensor in update.named_parameters()
    }


def derived_of(updates: Mapping[str, TrainedUpdate]) -> dict[str, Tensor]:
    """What takes long to derive from the base, by `<module>.<name>`."""
    return {
        f"{name}.{key}": value for name, update in updates.items() for key, value in update.derived().items()
    }


def by_module(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """`{module: {name: tensor}}` of tensors by `<module>.<name>`."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        module, _, name = key.rpartition(".")
        found.setdefault(module, {})[name] = tensor
    return found


def load(update: TrainedUpdate, name: str, tensors: dict[str, Tensor], adapter: str) -> None:
    """Take an update's tensors out of those of an adapter; LorafuseError where one is absent or of another shape."""
    for key, wanted in tensors_of({name: update}).items():
        have = tensors.pop(key, None)
        if have is None or have.shape != wanted.shape:
            raise _unfit(adapter, key)
        wanted.copy_(have)
    for key in derived_of({name: update}):
        tensors.pop(key, None)


def _unfit(adapter: str, key: str) -> LorafuseError:
    return LorafuseError(
        f"adapter '{adapter}': {key} does not fit the base or the method's options."
        " Train it again with `lorafuse train adapter`."
    )


def shape_of(base: nn.Module) -> tuple[int, int]:
    """(out, in) of a linear map."""
    return linear_shape(base, type(base).__name__)
