"""Multi-task adapters against the base and against their own added operations: `lorafuse bench adapters`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from lorafuse_bench.base_model import Base
from lorafuse_bench.bench.models import Shape, random_model
from lorafuse_bench.bench.timing import machine, paired, target
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.adapters.trained import TrainedAdapter, initialise
from lorafuse_bench.layers import Selection, install

TASKS = 9
OVER_OPERATIONS = 1.2
"""MoORE's time over base, over its operations over base, at most."""


def run(shape: Shape | None = None, batch: int = 8, tokens: int = 64, rounds: int = 9) -> dict[str, Any]:
    """One prefill of the base and of every adapter at inference, rows of all tasks mixed."""
    shape = shape or Shape(hidden_size=512, layers=4)
    base = random_model(shape)
    methods = [cls() for cls in registry.methods().values() if issubclass(cls, TrainedAdapter)]
    models = {"base": base} | {method.name: adapted(base, method, batch) for method in methods}
    ids = torch.randint(shape.vocabulary, (batch, tokens), generator=torch.Generator().manual_seed(0))
    found = compare({name: reading(model, ids) for name, model in models.items()}, rounds)
    over = found["moore"]["over_operations"]
    return {
        "schema": "lorafuse.bench.adapters/1",
        "machine": machine(),
        "shape": asdict(shape) | {"mlp_size": shape.mlp_size},
        "batch": batch,
        "tokens": tokens,
        "rounds": rounds,
        "alternatives": found,
        "targets": [target("moore: time over base / operations over base", over, at_most=OVER_OPERATIONS)],
    }


def adapted(base: PreTrainedModel, method: TrainedAdapter, rows: int) -> nn.Module:
    """The base with a new adapter, folded as at inference; row i is of task i modulo their number."""
    model, selection = twin(base), Selection()
    own = Base(model)
    updates = method.attach(own, TASKS, selection)
    initialise(updates, 0)
    for update in updates.values():
        update.requires_grad_(False).eval().fold()
    install(model, own.modules, updates)
    if method.tells_tasks_apart:
        selection.set((torch.arange(rows) % TASKS)[:, None].repeat(1, own.blocks))
    return model


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """The same model in modules of its own, sharing every weight."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def reading(model: nn.Module, ids: Tensor) -> Callable[[], object]:
    """What has a model read one batch."""
    return lambda: model(input_ids=ids, use_cache=False)


@torch.no_grad()
def compare(reads: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of reading one batch, in turns, beside the operations of the linear maps, both over those of `base`.

    torch's counter knows no attention on a CPU: there it is left out on both sides of `operations_ratio`.
    """
    table = paired(reads, rounds).against("base")
    operations = {name: _operations(read) for name, read in reads.items()}
    for name, row in table.items():
        row["operations_ratio"] = operations[name] / operations["base"]
        row["over_operations"] = row["ratio"] / row["operations_ratio"]
    return table


def _operations(read: Callable[[], object]) -> int:
    # As in training, where products are not written in place: those the counter does not know.
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        read()
    total: int = counter.get_total_flops()
    return total
