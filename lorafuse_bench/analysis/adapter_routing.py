"""The weights that a trained adapter's router gives its experts, prompt by prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from lorafuse_bench.analysis.base import Count, option
from lorafuse_bench.analysis.of_zoo import InPortions, OfZoo, PromptAnalysis, compute_of
from lorafuse_bench.analysis.prompts import read_in_batches
from lorafuse_bench.analysis.study import adapter_methods
from lorafuse_bench.errors import LorafuseError, unknown
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion.adapters.trained import TrainedUpdate
from lorafuse_bench.layers import FusedModule


class OfRouter(OfZoo):
    """A result that tells whose router was read, and where."""

    method: str = Field(description="the trained adapter")
    module: str = Field(description="the module whose router was read")
    samples: int = Field(description="evaluated prompts per task, at most")


R = TypeVar("R", bound=OfRouter)


@dataclass(frozen=True, kw_only=True)
class RouterAnalysis(InPortions, PromptAnalysis[R]):
    """An analysis of the weights that a trained adapter's router gives its experts."""

    method: str = option("moore", "a trained adapter whose router is read")
    suites: str | None = option("csr_mtl", "suites separated by commas, or tasks by name: piqa/boolq")
    samples: Count = option(100, "evaluated prompts per task")
    batch_size: Count = option(16, "prompts read at a time")
    module: str | None = option(
        None, "the module whose router is read; by default the first one that has one"
    )

    def weights(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Task to `(samples, experts)`, and the fields of `OfRouter`."""
        self.tasks()  # an unknown suite is told before anything is loaded
        rows = self.portion
        fused = self.fused(())
        fused.use(adapter_methods(self.method)[0])
        place = self.module or routed_modules(fused)[0]
        found = routing_weights(fused, self.prompts(fused, self.samples), place, rows)
        facts = {"method": self.method, "module": place, "samples": self.samples}
        return found, {**self.facts(compute_of(fused)), **facts}


def routed_modules(fused: FusedModel) -> list[str]:
    """The modules whose update weighs experts, in the model's order; LorafuseError where none does."""
    names = [
        name
        for name, module in fused.model.named_modules()
        if isinstance(module, FusedModule)
        and isinstance(module.update, TrainedUpdate)
        and type(module.update).gates is not TrainedUpdate.gates
    ]
    if not names:
        label = fused.method.label() if fused.method else "base"
        raise LorafuseError(f"method '{label}' weighs no experts. Name one that does, such as moore.")
    return names


@torch.no_grad()
def routing_weights(
    fused: FusedModel, prompts: Mapping[str, Sequence[Sequence[int]]], module: str, batch: int = 16
) -> dict[str, Tensor]:
    """Task to `(samples, experts)`: each expert's weight at `module`, the mean over a prompt's tokens.

    prompts: task key to token ids. The method in use decides what a task means; one that it was not trained on
    counts as it does in evaluation.
    """
    if module not in routed_modules(fused):
        raise unknown("module with experts", module, routed_modules(fused))
    place = fused.model.get_submodule(module)
    assert isinstance(place, FusedModule)
    update = place.update
    assert isinstance(update, TrainedUpdate)
    held: list[Tensor] = []

    def note(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        gates = update.gates(args[0])
        assert gates is not None
        held.append(gates.float().expand(*args[0].shape[:2], -1))

    handle = place.register_forward_pre_hook(note)
    try:
        return {task: _of_task(fused, task, rows, held, batch) for task, rows in prompts.items()}
    finally:
        handle.remove()
        fused.selection.set(None)


def _of_task(
    fused: FusedModel, task: str, rows: Sequence[Sequence[int]], held: list[Tensor], batch: int
) -> Tensor:
    means = []
    for inputs in read_in_batches(fused, task, rows, batch):
        gates, mask = held.pop(), inputs.mask[..., None]
        means.append((gates * mask).sum(1) / mask.sum(1))
    return torch.cat(means).cpu()
