"""What a zoo's adapters cost at inference: seconds per batch against the base (MoORE, section 4.4)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from lorafuse_bench.bench.adapters import compare, twin
from lorafuse_bench.bench.timing import machine
from lorafuse_bench.device import Compute
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion.base import FusionMethod, Prompts
from lorafuse_bench.picture import new_figure, write_figure
from lorafuse_bench.zoo.manifest import Zoo


def latency(
    model: PreTrainedModel,
    zoo: Zoo,
    methods: Sequence[FusionMethod],
    prompts: Sequence[tuple[str, Sequence[int]]],
    rounds: int = 9,
) -> dict[str, Any]:
    """Median seconds to read one batch of `prompts`, (task key, token ids) each, for the base and every method.

    All take turns in one process on the same weights; ratios are formed within each round.
    """
    ids = pad_sequence([torch.tensor(row) for _, row in prompts], batch_first=True).to(model.device)
    lengths = torch.tensor([len(row) for _, row in prompts], device=model.device)
    inputs = Prompts(ids, lengths, tuple(task for task, _ in prompts))
    models: dict[str, nn.Module] = {"base": model}
    for method in methods:
        fused = FusedModel(twin(model), zoo, ExpertPool.from_zoo(zoo, []))
        fused.use(method)
        fused.selection.set(fused.select(inputs))
        models[method.label()] = fused.model
    return {
        "schema": "lorafuse.analysis.latency/1",
        "machine": machine(),
        **Compute(model.device, model.dtype).record(),
        "rows": len(ids),
        "tokens": ids.shape[1],
        "rounds": rounds,
        "methods": compare(models, ids, rounds),
    }


def plot(result: dict[str, Any], path: Path) -> None:
    """Write a PNG of milliseconds per batch, the base as a dashed line."""
    table = dict(result["methods"])
    base = table.pop("base")["seconds"]
    figure, axes = new_figure(height=1 + 0.35 * max(len(table), 1))
    axes.barh(list(table), [1e3 * row["seconds"] for row in table.values()])
    axes.axvline(1e3 * base, color="grey", linestyle="--", label="base")
    axes.set_xlabel("milliseconds per batch")
    axes.legend()
    write_figure(figure, path)
