"""How similar a zoo's experts are: cosines of their factors and of their updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor

from lorafuse_bench.analysis.base import Part, Say, option
from lorafuse_bench.analysis.of_zoo import OfExperts, OfZoo, ZooAnalysis
from lorafuse_bench.analysis.registry import register
from lorafuse_bench.device import Compute, device_of
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool, ModuleStack
from lorafuse_bench.files import read_json
from lorafuse_bench.fusion.papers import RETHINKING, SPECTR
from lorafuse_bench.picture import new_panels
from lorafuse_bench.zoo.manifest import Zoo

Table = list[list[float | None]]
"""Experts by experts; None where no layer is adapted by both."""
KINDS = {"A": "A", "B": "B", "update": "ΔW = s B A"}


class Cosines(Part):
    """The cosines of one kind of tensor."""

    mean: Table = Field(description="experts by experts, the mean over layers that both adapt")
    by_layer: dict[str, Table] = Field(description="layer to its table")
    score: dict[str, float | None] = Field(description="expert to the mean of its row without itself")


class SimilarityResult(OfZoo):
    """Pairwise cosines of the experts."""

    experts: list[str] = Field(description="rows and columns of every table")
    init: str | None = Field(
        description="whether the experts started from one A (shared) or each from its own"
    )
    A: Cosines = Field(description="of the factors A (r, in)")
    B: Cosines = Field(description="of the factors B (out, r)")
    update: Cosines = Field(description="of the updates ΔW = s B A")
    accuracy: dict[str, dict[str, float]] = Field(
        description="method to expert to its top-k routing accuracy, where --accuracy tells it"
    )


@register
@dataclass(frozen=True, kw_only=True)
class Similarity(OfExperts, ZooAnalysis[SimilarityResult]):
    """Cosines of every two experts, of A, of B and of the updates, per layer and averaged.

    `cos(X_i, X_j) = ⟨X_i, X_j⟩ / (‖X_i‖ ‖X_j‖)`, in fp64; of updates from the factors,
    `⟨ΔW_i, ΔW_j⟩ = Σ (B_iᵀ B_j) ⊙ (A_i A_jᵀ)`, so no `(out, in)` matrix is made. Smaller ranks are padded by
    zeros. The three disagree: experts that started from one A keep alike A's, whatever they learnt.
    """

    accuracy: Path | None = option(
        None, "a routing-accuracy.json, to draw it against the updates' similarity"
    )

    name = "similarity"
    paper = f"{RETHINKING}, Figure 3; {SPECTR}, Figures 2, 3, 5 and 7"

    def run(self, say: Say) -> SimilarityResult:
        zoo = Zoo.open(self.zoo)
        pool = ExpertPool.from_zoo(zoo, self.names).required_by("analysis 'similarity'")
        device = device_of(self.device)
        tables: dict[str, dict[str, Tensor]] = {kind: {} for kind in KINDS}
        for module, stack in pool.modules.items():
            for kind, table in cosines(stack, device).items():
                tables[kind][module] = table
        return SimilarityResult(
            **self.facts(Compute(device, torch.float64)),
            experts=list(pool.names),
            init=zoo.manifest.init,
            accuracy=_accuracy(self.accuracy, pool) if self.accuracy else {},
            **{kind: _summary(layers, pool.names) for kind, layers in tables.items()},  # type: ignore[arg-type]
        )

    def figure(self, result: SimilarityResult) -> Figure:
        """The three mean tables; and accuracy against similarity, where it is known."""
        size = 1.5 + 0.33 * len(result.experts)
        count = len(KINDS) + bool(result.accuracy)
        figure, panels = new_panels(count, width=(size + 0.6) * count, height=size + 0.6)
        for (kind, title), axes in zip(KINDS.items(), panels, strict=False):
            _draw(figure, axes, getattr(result, kind).mean, result.experts)
            axes.set_title(f"cosine of {title}")
        for method, accuracy in result.accuracy.items():
            known = [(x, accuracy[name]) for name, x in result.update.score.items() if x is not None]
            panels[-1].scatter(*zip(*known, strict=True), label=method)
        if result.accuracy:
            panels[-1].set_xlabel("similarity to the others (ΔW)")
            panels[-1].set_ylabel("routing accuracy")
            panels[-1].legend(fontsize="small")
        return figure


def cosines(stack: ModuleStack, device: torch.device | None = None) -> dict[str, Tensor]:
    """`(N, N)` cosines of A, B and updates at one layer, in fp64; NaN where an expert does not adapt it."""
    a, b = (factor.to(device or factor.device, torch.float64) for factor in (stack.A, stack.B))
    n, r = a.shape[:2]
    down, up = a.flatten(0, 1), b.transpose(1, 2).flatten(0, 1)
    between = (up @ up.T) * (down @ down.T)
    inner = {
        "A": a.flatten(1) @ a.flatten(1).T,
        "B": b.flatten(1) @ b.flatten(1).T,
        "update": between.view(n, r, n, r).sum((1, 3)),
    }
    return {kind: _normalised(product).cpu() for kind, product in inner.items()}


def _normalised(inner: Tensor) -> Tensor:
    norm = inner.diagonal().clamp(min=0).sqrt()
    return inner / (norm[:, None] * norm)


def _summary(layers: dict[str, Tensor], names: Sequence[str]) -> Cosines:
    mean = torch.stack(list(layers.values())).nanmean(0)
    beside = mean.clone().fill_diagonal_(float("nan"))
    return Cosines(
        mean=_table(mean),
        by_layer={layer: _table(table) for layer, table in layers.items()},
        score=dict(zip(names, _row(beside.nanmean(1)), strict=True)),
    )


def _table(values: Tensor) -> Table:
    return [_row(row) for row in values]


def _row(values: Tensor) -> list[float | None]:
    return [None if value != value else value for value in values.tolist()]


def _accuracy(path: Path, pool: ExpertPool) -> dict[str, dict[str, float]]:
    """Method to expert to its top-k accuracy, from the file that `analyze routing-accuracy` writes."""
    remedy = "Write it with `lorafuse analyze routing-accuracy`."
    read = read_json(path, remedy)
    try:
        return {label: _by_expert(entry, pool) for label, entry in read["methods"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise LorafuseError(
            f"{path} does not hold the routing accuracy of these experts: no {error}. {remedy}"
        ) from error


def _by_expert(entry: dict[str, Any], pool: ExpertPool) -> dict[str, float]:
    return {
        pool.names[pool.index_of_task(task)]: float(value)
        for task, value in (entry["top_k"] or entry["top_1"]).items()
    }


def _draw(figure: Figure, axes: Axes, table: Table, names: Sequence[str]) -> None:
    values = [
        [float("nan") if v is None or i == j else v for j, v in enumerate(r)] for i, r in enumerate(table)
    ]
    largest = max((abs(v) for row in values for v in row if v == v), default=1.0)
    image = axes.imshow(values, vmin=-largest, vmax=largest, cmap="RdBu_r")
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize="small")
    axes.set_yticks(range(len(names)), names, fontsize="small")
    figure.colorbar(image, ax=axes, shrink=0.8)
