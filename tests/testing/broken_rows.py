"""Routers of rows, ensembles and layers with one mistake each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from mistakes import SOUND, Body, dense, mean, method, mistake
from torch import Tensor, nn

from lorafuse_bench.experts import ModuleStack
from lorafuse_bench.fusion.base import (
    Ensembling,
    FusionMethod,
    Members,
    Prompts,
    RowRouting,
    Runtime,
)
from lorafuse_bench.layers import RowUpdate, Update, linear_weight

# --- rows ----------------------------------------------------------------------------------------


def chosen(choose: Callable[[Prompts, int], Tensor], **body: Any) -> Body:
    """A router of rows by a number for each prompt."""

    def select(self: Any, runtime: Runtime, prompts: Prompts) -> Tensor:
        index = choose(prompts, len(runtime.pool)) % len(runtime.pool)
        return index[:, None].repeat(1, runtime.base.blocks)

    return {"select": select, "laws_broken": {"order of the experts": "chosen by place"}} | body


def _last(prompts: Prompts, experts: int) -> Tensor:
    return prompts.input_ids[torch.arange(len(prompts.lengths)), prompts.lengths - 1]


SOUND.append(method(RowRouting, chosen(_last)))


def _by_task(prompts: Prompts, experts: int) -> Tensor:
    return torch.tensor([len(task) for task in prompts.tasks])


def _cleared(prompts: Prompts, experts: int) -> Tensor:
    return prompts.input_ids.masked_fill_(~prompts.mask, 5).sum(1)


def _rolled(self: Any, runtime: Runtime) -> Mapping[str, Update]:
    made: dict[str, Update] = {}
    for m, s in runtime.pool.modules.items():
        block = runtime.base.block_of(m)
        moved = ModuleStack(s.A.roll(block, 0), s.B.roll(block, 0), s.scaling.roll(block), s.ranks)
        made[m] = RowUpdate(moved, runtime.selection, block)
    return made


def rowwise(what: str, by: str, choose: Callable[[Prompts, int], Tensor], **body: Any) -> None:
    mistake(what, by, RowRouting, **chosen(choose, **body))


rowwise("padding token routed", "padding_is_not_routed", lambda p, n: p.input_ids.sum(1))
rowwise("last column taken for the last token", "padding_is_not_routed", lambda p, n: p.input_ids[:, -1])
rowwise(
    "routed by the batch's mean",
    "padding_is_not_routed",
    lambda p, n: (_last(p, n).float().mean() + 0 * _last(p, n)).long(),
)
rowwise("task read undeclared", "needs_are_honoured", _by_task)
rowwise("task declared and not read", "needs_are_honoured", _last, needs=frozenset({"task_id"}))
rowwise("prompts written to", "inputs_are_left_alone", _cleared)
rowwise("experts swapped in one layer", "each_row_runs_its_own_expert", _last, updates=_rolled)

# --- ensembles -----------------------------------------------------------------------------------


def ensemble(**body: Any) -> Body:
    def members(self: Any, runtime: Runtime) -> Members:
        n = len(runtime.pool)
        index = torch.arange(n)[:, None].expand(-1, runtime.base.blocks)
        return Members(index, torch.full((n,), 1 / n))

    def add(self: Any, total: Tensor | None, logits: Tensor, weights: Tensor) -> Tensor:
        part = torch.tensordot(weights, logits.softmax(-1), dims=1)
        return part if total is None else total + part

    whole = {
        "members": members,
        "add": add,
        "log_probabilities": lambda self, total: total.log(),
        "chunk": None,
    }
    return whole | body


SOUND.append(method(Ensembling, ensemble()))


def _double(self: Any, runtime: Runtime) -> Members:
    plain = ensemble()["members"](self, runtime)
    return Members(plain.index, torch.ones_like(plain.weights))


def _only_the_last(self: Any, total: Tensor | None, logits: Tensor, weights: Tensor) -> Tensor:
    return torch.tensordot(weights / weights.sum(), logits.softmax(-1), dims=1)


def _over_rows(self: Any, total: Tensor | None, logits: Tensor, weights: Tensor) -> Tensor:
    part = torch.tensordot(weights, logits.softmax(1), dims=1)
    return part if total is None else total + part


mistake("members weigh 1 each", "members_are_the_experts", Ensembling, **ensemble(members=_double))
mistake("only the last member counts", "order_of_the_experts", Ensembling, **ensemble(add=_only_the_last))
mistake("softmax over the rows of logits", "one_expert_is_itself", Ensembling, **ensemble(add=_over_rows))

# --- maps of the base ----------------------------------------------------------------------------


class Rebuilt(Update):
    """`(W + ΔW) x`, from a weight that it reads itself."""

    def __init__(self, delta: Tensor, weight: Callable[[nn.Module], Tensor], bias: bool) -> None:
        super().__init__()
        self.register_buffer("delta", delta)
        self.of, self.bias = weight, bias

    def output(self, base: nn.Module, x: Tensor) -> Tensor:
        return F.linear(x, self.of(base) + self.delta, base.bias if self.bias else None)  # type: ignore[arg-type,operator]

    @property
    def size(self) -> int:
        return self.delta.numel()  # type: ignore[operator]


def rebuilt(weight: Callable[[nn.Module], Tensor], bias: bool = True) -> Body:
    def updates(self: Any, runtime: Runtime) -> Mapping[str, Update]:
        pool = runtime.pool
        return {m: Rebuilt(mean(dense(s), pool), weight, bias) for m, s in pool.modules.items()}

    return {"updates": updates, "family": "merging"}


SOUND.append(method(FusionMethod, rebuilt(linear_weight)))


def _as_stored(base: nn.Module) -> Tensor:
    weight = base.weight
    assert isinstance(weight, Tensor)
    square = weight.shape[0] == weight.shape[1]
    return weight if square or isinstance(base, nn.Linear) else weight.T


mistake("bias dropped", "zero_updates_give_the_base", FusionMethod, **rebuilt(linear_weight, bias=False))
mistake("transposed Conv1D", "one_expert_is_itself_on_gpt2", FusionMethod, **rebuilt(_as_stored))
