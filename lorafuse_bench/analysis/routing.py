"""Which experts a trained adapter's router weighs for which task, and how near two tasks are by that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lorafuse_bench.errors import LorafuseError, unknown
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion.adapters.trained import TrainedUpdate
from lorafuse_bench.fusion.base import Prompts
from lorafuse_bench.layers import FusedModule
from lorafuse_bench.leaderboards.board import Board
from lorafuse_bench.picture import new_figure, write_figure


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
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        ids = [torch.tensor(row) for row in part]
        lengths = torch.tensor([len(row) for row in part], device=fused.model.device)
        padded = pad_sequence(ids, batch_first=True).to(fused.model.device)
        inputs = Prompts(padded, lengths, (task,) * len(part))
        fused.selection.set(fused.select(inputs))
        fused.model.base_model(input_ids=padded, attention_mask=inputs.mask.long(), use_cache=False)
        gates, mask = held.pop(), inputs.mask[..., None]
        means.append((gates * mask).sum(1) / mask.sum(1))
    return torch.cat(means).cpu()


def spread(weights: Mapping[str, Tensor]) -> dict[str, dict[str, list[float]]]:
    """Mean and standard deviation over samples of each expert's weight, per task (MoORE, Figure 13)."""
    return {
        task: {"mean": w.mean(0).tolist(), "sd": w.std(0, correction=0).tolist()}
        for task, w in weights.items()
    }


def correlation(weights: Mapping[str, Tensor]) -> list[list[float]]:
    """`‖ḡ_i − ḡ_j‖₂ / max`, ḡ_k the mean weights `(experts,)` of task k (MoORE, Figure 12); 0 is alike, 1 farthest.

    All 0 where no two tasks differ.
    """
    means = torch.stack([w.double().mean(0) for w in weights.values()])
    distances = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist")
    largest = distances.max().item()
    table: list[list[float]] = (distances / largest if largest else distances).tolist()
    return table


def changes(boards: Sequence[Board], method: str) -> dict[str, float]:
    """Task to after minus before of a method, from the boards that know what was before."""
    return {
        task: scores.change.value
        for board in boards
        for row in board.rows
        if row.label == method and row.origin == "measured"
        for task, scores in row.tasks.items()
        if scores.change is not None
    }


def plot_spread(result: dict[str, Any], path: Path) -> None:
    """Write a PNG: for each task, every expert's mean weight as a point on a stem of its deviation."""
    tasks = result["tasks"]
    figure, _ = new_figure(width=8, height=1.4 * len(tasks))
    figure.clear()
    rows = figure.subplots(len(tasks), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (task, entry) in zip(rows, tasks.items(), strict=True):
        numbers = range(len(entry["mean"]))
        axes.errorbar(
            numbers, entry["mean"], entry["sd"], fmt=".", color="tab:red", ecolor="tab:blue", markersize=3
        )
        axes.set_title(task, fontsize="small", loc="left")
        axes.axhline(0, color="grey", linewidth=0.5)
    rows[-1].set_xlabel("expert")
    write_figure(figure, path)


def plot_correlation(result: dict[str, Any], path: Path) -> None:
    """Write a PNG of the matrix, the tasks' changes of score in the first row where they are known."""
    tasks, table = result["tasks"], result["correlation"]
    size = 1 + 0.45 * len(tasks)
    figure, axes = new_figure(width=size + 1, height=size)
    image = axes.imshow(table, vmin=0, vmax=1, cmap="viridis")
    labels = [f"{t} ({result['change'][t]:+.2f})" if t in result["change"] else t for t in tasks]
    axes.set_xticks(range(len(tasks)), tasks, rotation=90)
    axes.set_yticks(range(len(tasks)), labels)
    figure.colorbar(image, label="distance of the mean routing weights")
    write_figure(figure, path)
