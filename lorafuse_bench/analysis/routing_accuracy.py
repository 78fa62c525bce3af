"""How often a router names a task's own expert."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor

from lorafuse_bench.analysis.base import Count, Part, Say, option
from lorafuse_bench.analysis.expert_scores import ROWS, gated_modules, mean_over_tokens
from lorafuse_bench.analysis.of_zoo import OfExperts, OfZoo, PromptAnalysis, compute_of
from lorafuse_bench.analysis.prompts import read_in_batches
from lorafuse_bench.analysis.registry import register
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.base import FusionMethod, RowRouting
from lorafuse_bench.fusion.papers import RETHINKING, SPECTR
from lorafuse_bench.picture import new_panels

TOKENS = "arrow,spectr,spectr:score=subspace"


class Accuracy(Part):
    """One method's shares, from 0 to 1."""

    top_1: dict[str, float] = Field(description="task to the share whose own expert comes first")
    top_k: dict[str, float] | None = Field(
        description="task to the share whose own expert is among the first k; None for one expert per row"
    )
    mean_top_1: float = Field(description="the mean over tasks")
    mean_top_k: float | None = Field(description="the mean over tasks")
    by_layer: dict[str, float] = Field(description="layer, or block, to the mean over tasks of top 1")
    confusion: list[list[float]] = Field(
        description="tasks by experts: the share for which an expert comes first"
    )


class RoutingAccuracyResult(OfZoo):
    """Every method's accuracy beside chance."""

    samples: int = Field(description="evaluated prompts per task, at most")
    k: int = Field(description="the k of top_k")
    chance_top_1: float = Field(description="1/N")
    chance_top_k: float = Field(description="k/N")
    tasks: list[str] = Field(description="rows of the confusion matrices")
    experts: list[str] = Field(description="their columns")
    methods: dict[str, Accuracy] = Field(description="method to its accuracy")


@register
@dataclass(frozen=True, kw_only=True)
class RoutingAccuracy(OfExperts, PromptAnalysis[RoutingAccuracyResult]):
    """The share of tokens whose task's own expert comes first, and among the first k, over all layers.

    Per LoRA layer over all tokens of a task's prompts, then the mean over layers; the first k are those the method
    would mix. A method that gives each row one expert (`moa:decision=per_block`) is counted per block over prompts
    instead; blocks whose router saw nothing follow the first that did. Hidden states are the routed model's own.
    """

    methods: str | None = option(
        None, f"methods that route; by default {TOKENS} and, with a router, moa:decision=per_block"
    )
    samples: Count = option(100, "evaluated prompts per task")
    k: Count = option(4, "the k of top_k; all experts where there are fewer")

    name = "routing-accuracy"
    paper = f"{SPECTR}, Tables 1 and 4; {RETHINKING}, section 3.3"

    def run(self, say: Say) -> RoutingAccuracyResult:
        tasks = self.tasks()
        chosen = registry.parse_all(self.methods) if self.methods else None
        fused = self.fused(self.names)
        fused.pool.required_by("analysis 'routing-accuracy'")
        n, prompts = len(fused.pool), self.prompts(fused, self.samples)
        k = min(self.k, n)
        found = {}
        for method in chosen or _default(fused):
            say(method.label())
            found[method.label()] = accuracy(fused, method, prompts, k)
        return RoutingAccuracyResult(
            **self.facts(compute_of(fused)),
            samples=self.samples,
            k=k,
            chance_top_1=1 / n,
            chance_top_k=k / n,
            tasks=tasks,
            experts=list(fused.pool.names),
            methods=found,
        )

    def figure(self, result: RoutingAccuracyResult) -> Figure:
        """Top k by task beside chance, and each method's confusion matrix."""
        size = 1.6 + 0.3 * len(result.experts)
        count = 1 + len(result.methods)
        figure, panels = new_panels(count, width=(size + 0.3) * count, height=size + 0.6)
        _bars(panels[0], result)
        for axes, (label, entry) in zip(panels[1:], result.methods.items(), strict=True):
            axes.imshow(entry.confusion, vmin=0, vmax=1, cmap="viridis")
            axes.set_title(f"{label}\nfirst: {entry.mean_top_1:.2f}", fontsize="small")
            axes.set_xticks(range(len(result.experts)), result.experts, rotation=90, fontsize="small")
            axes.set_yticks(range(len(result.tasks)), result.tasks, fontsize="small")
        return figure


@torch.no_grad()
def accuracy(
    fused: FusedModel, method: FusionMethod, prompts: Mapping[str, Sequence[Sequence[int]]], k: int
) -> Accuracy:
    """A method's accuracy on prompts, task key to token ids."""
    fused.use(method)
    own = {task: fused.pool.index_of_task(task) for task in prompts}
    n = len(fused.pool)
    if isinstance(method, RowRouting):
        first = {task: _choices(fused, task, rows) for task, rows in prompts.items()}
        layers, among = [f"block {block}" for block in range(fused.base.blocks)], None
    else:
        shares = mean_over_tokens(fused, prompts, lambda scores, own: _ranked(scores, own, k))
        first = {task: table[:, :n] for task, table in shares.items()}
        layers = list(gated_modules(fused))
        among = {task: table[:, n].mean().item() for task, table in shares.items()}
    top_1 = {task: table[:, own[task]].mean().item() for task, table in first.items()}
    right = torch.stack([table[:, own[task]] for task, table in first.items()]).mean(0)
    return Accuracy(
        top_1=top_1,
        top_k=among,
        mean_top_1=fmean(top_1.values()),
        mean_top_k=None if among is None else fmean(among.values()),
        by_layer=dict(zip(layers, right.tolist(), strict=True)),
        confusion=[table.mean(0).tolist() for table in first.values()],
    )


def _ranked(scores: Tensor, own: int, k: int) -> Tensor:
    """`(tokens, N + 1)`: one-hot of the expert that comes first, and whether the own one is among the first k."""
    values, index = scores.topk(k, dim=-1)
    first = F.one_hot(index[:, 0], scores.shape[-1])
    among = ((index == own) & values.isfinite()).any(-1, keepdim=True)
    return torch.cat([first, among], -1).float()


def _choices(fused: FusedModel, task: str, rows: Sequence[Sequence[int]]) -> Tensor:
    """`(blocks, N)`: the share of a task's prompts for which each block uses each expert."""
    total = torch.zeros(fused.base.blocks, len(fused.pool), dtype=torch.float64)
    for inputs in read_in_batches(fused, task, rows, ROWS):
        index = fused.selection.index
        assert index is not None and len(index) == len(inputs.tasks)
        total += F.one_hot(index.cpu(), len(fused.pool)).sum(0)
    return total / len(rows)


def _default(fused: FusedModel) -> list[FusionMethod]:
    chosen = registry.parse_all(TOKENS)
    try:
        moa = registry.parse("moa:decision=per_block")
        fused.use(moa)
    except LorafuseError:  # the zoo has no router for these experts
        return chosen
    return [*chosen, moa]


def _bars(axes: Axes, result: RoutingAccuracyResult) -> None:
    shown = {label: entry.top_k for label, entry in result.methods.items() if entry.top_k}
    width = 0.8 / max(len(shown), 1)
    for place, (label, shares) in enumerate(shown.items()):
        at = [i - 0.4 + (place + 0.5) * width for i in range(len(result.tasks))]
        axes.barh(at, [shares[task] for task in result.tasks], width, label=label)
    axes.axvline(result.chance_top_k, color="black", linestyle="--", linewidth=0.8, label="chance")
    axes.set_yticks(range(len(result.tasks)), result.tasks, fontsize="small")
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel(f"own expert among the first {result.k}")
    axes.legend(fontsize="x-small", loc="lower left", bbox_to_anchor=(0, 1))
