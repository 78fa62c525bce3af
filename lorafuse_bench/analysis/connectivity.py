"""What a pair of experts loses on the way from one to the other."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor

from lorafuse_bench.analysis.base import Count, Part, Say, option
from lorafuse_bench.analysis.of_zoo import OfExperts, OfZoo, PromptAnalysis, compute_of
from lorafuse_bench.analysis.registry import register
from lorafuse_bench.analysis.row_losses import evaluated_rows, nats_and_tokens, per_token
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion.base import Merged, static_updates
from lorafuse_bench.fusion.merging.merge_sgd import average
from lorafuse_bench.fusion.papers import TRADEOFFS
from lorafuse_bench.picture import new_grid
from lorafuse_bench.tasks.data import resolve_source
from lorafuse_bench.training.examples import Example

COLUMNS = 3


class Path(Part):
    """One pair; every loss in nats per token, one for each α."""

    first: str = Field(description="the expert at α = 0")
    second: str = Field(description="the expert at α = 1")
    on_first: list[float] = Field(description="losses on the rows of the first expert's task")
    on_second: list[float] = Field(description="losses on the rows of the second expert's task")
    on_both: list[float] = Field(description="losses on the rows of both")
    better_per_row: float = Field(description="loss on both with the better of the two experts for each row")
    barrier: float = Field(
        description="the most that on_both lies above the line between its ends; 0 where it never does"
    )


class ConnectivityResult(OfZoo):
    """The pairs."""

    samples: int = Field(description="evaluated rows per task, at most")
    alphas: list[float] = Field(description="the second expert's share")
    pairs: list[Path] = Field(description="the pairs, in the zoo's order of experts")


@register
@dataclass(frozen=True, kw_only=True)
class Connectivity(OfExperts, PromptAnalysis[ConnectivityResult]):
    """The loss of two experts' interpolation on the task of either and on both, beside the better one for each row.

    `A_α = (1 − α) A_1 + α A_2`, `B_α` alike (merge-before, scaling in B), α = 0, .1, ..., 1. Nats per target token of
    the evaluated rows, those of both tasks together counted by token. An expert's task is the first it was trained on.
    """

    pairs: Count = option(6, "pairs of experts, drawn with the seed where there are more")
    points: Count = option(11, "values of α from 0 to 1, at least 2")
    samples: Count = option(100, "evaluated rows per task")
    seed: int = option(0, "seed of the drawn pairs")

    name = "connectivity"
    paper = f"{TRADEOFFS}, Figure 3 and section 4.2"

    def run(self, say: Say) -> ConnectivityResult:
        if self.points < 2:
            raise LorafuseError("--points 1 does not lead from one expert to another. Use 2 or more.")
        fused = self.fused(self.names)
        pool = fused.pool.required_by("analysis 'connectivity'")
        if len(pool) < 2:
            raise LorafuseError(f"zoo '{self.zoo}' has one expert, and a pair is two. Name other --experts.")
        chosen = drawn(len(pool), self.pairs, self.seed)
        tasks = {i: pool.experts[i].tasks[0] for pair in chosen for i in pair}
        source = resolve_source(self.data, self.zoo)
        rows = evaluated_rows(fused, dict.fromkeys(tasks.values()), source, self.samples)
        alphas = [i / (self.points - 1) for i in range(self.points)]
        paths = []
        for a, b in chosen:
            say(f"{pool.names[a]} to {pool.names[b]}")
            paths.append(path(fused, (a, b), [rows[tasks[a]], rows[tasks[b]]], alphas))
        return ConnectivityResult(
            **self.facts(compute_of(fused)), samples=self.samples, alphas=alphas, pairs=paths
        )

    def figure(self, result: ConnectivityResult) -> Figure:
        """A panel for each pair: three curves, and the line of the better expert for each row."""
        lines = -(-len(result.pairs) // COLUMNS)
        figure = new_grid(lines, COLUMNS, width=4 * COLUMNS, height=3 * lines)
        for axes in figure.axes[len(result.pairs) :]:
            axes.set_axis_off()
        for axes, pair in zip(figure.axes, result.pairs, strict=False):
            for label, losses in ((pair.first, pair.on_first), (pair.second, pair.on_second)):
                axes.plot(result.alphas, losses, linestyle="--", label=f"on {label}")
            axes.plot(result.alphas, pair.on_both, marker="o", label="on both")
            axes.axhline(pair.better_per_row, color="black", linewidth=0.8, label="better for each row")
            axes.set_xlabel(f"α, from {pair.first} to {pair.second}", fontsize="small")
            axes.set_ylabel("nats per token")
            axes.legend(fontsize="x-small")
        return figure


def drawn(experts: int, count: int, seed: int) -> list[tuple[int, int]]:
    """`count` pairs of that many experts in order, or all where there are no more."""
    every = list(combinations(range(experts), 2))
    if len(every) > count:
        every = sorted(random.Random(seed).sample(every, count))
    return every


@torch.no_grad()
def path(
    fused: FusedModel, pair: tuple[int, int], rows: Sequence[list[Example]], alphas: Sequence[float]
) -> Path:
    """The losses of one pair, experts by their place in the pool, on the rows of each one's task."""
    first = len(rows[0])
    both = [*rows[0], *rows[1]]
    tables = [nats_and_tokens(fused, both, static_updates(between(fused.pool, pair, a))) for a in alphas]
    ends = torch.stack([tables[0][:, 0], tables[-1][:, 0]])
    better = torch.stack([ends.min(0).values, tables[0][:, 1]], 1)
    on_both = [per_token(table) for table in tables]
    above = [loss - (1 - a) * on_both[0] - a * on_both[-1] for a, loss in zip(alphas, on_both, strict=True)]
    return Path(
        first=fused.pool.names[pair[0]],
        second=fused.pool.names[pair[1]],
        on_first=[per_token(table[:first]) for table in tables],
        on_second=[per_token(table[first:]) for table in tables],
        on_both=on_both,
        better_per_row=per_token(better),
        barrier=max(0.0, *above),
    )


def between(pool: ExpertPool, pair: tuple[int, int], alpha: float) -> Merged:
    """`A_α = (1 − α) A_1 + α A_2` and `B_α` alike, of all modules."""
    weights: Tensor = torch.zeros(len(pool), dtype=torch.float64)
    weights[pair[0]], weights[pair[1]] = 1 - alpha, alpha
    return Merged({module: average(pool, module, weights) for module in pool.modules})
