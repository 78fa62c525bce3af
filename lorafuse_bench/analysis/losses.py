"""What every method loses, with the errors over items and over tasks, and one bank of experts beside another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev

from matplotlib.figure import Figure
from pydantic import Field

from lorafuse_bench.analysis.base import Analysis, Part, Say, option
from lorafuse_bench.analysis.registry import register
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion.papers import TRADEOFFS
from lorafuse_bench.leaderboards.boards.builder import over_seeds
from lorafuse_bench.leaderboards.boards.collect import Group, collect
from lorafuse_bench.leaderboards.statistics import stats
from lorafuse_bench.leaderboards.statistics.stats import Estimate, Statistic
from lorafuse_bench.picture import colours, new_figure

SIDE_BY_SIDE = (("ensemble", "ensemble:space=logit"), ("merge_uniform:space=full", "merge_uniform"))
"""Methods that differ in one thing: what is averaged, probabilities or logits, products or factors."""

Scored = dict[int, list[Statistic]]
"""Seed to the losses of each task."""


class Loss(Part):
    """A mean over tasks in nats per token."""

    value: float = Field(description="the mean over tasks, and over seeds")
    se_items: float | None = Field(description="standard error over items, paired where it is a difference")
    se_tasks: float | None = Field(description="standard error over tasks, sd/sqrt(T), the mean over seeds")


class Difference(Part):
    """The loss of `a` minus that of `b`, each as METHOD on ZOO, or ZOO@BANK for experts of another bank."""

    a: str = Field(description="what is compared")
    b: str = Field(description="what it is compared with")
    loss: Loss = Field(description="a minus b")


class LossesResult(Part):
    """All methods on one suite."""

    suite: str = Field(description="the suite of losses")
    tasks: int = Field(description="how many tasks it has")
    seeds: list[int] = Field(description="seeds of the zoos")
    methods: dict[str, dict[str, Loss]] = Field(
        description="zoo, or ZOO@BANK for experts of another bank, to method to its loss"
    )
    differences: list[Difference] = Field(
        description="a bank beside another, probabilities beside logits, products beside factors"
    )


@register
@dataclass(frozen=True, kw_only=True)
class Losses(Analysis[LossesResult]):
    """The mean loss of every method on a suite, of each bank of experts, and of pairs that differ in one thing.

    Nats per token, the unweighted mean over tasks. Two errors: over items, and over tasks as the paper's, sd/sqrt(T);
    those of differences are paired. Methods that lack a task on some seed are left out.
    """

    results: Path = option(help="folder of results on a suite of losses, of one bank of experts or more")
    suite: str | None = option(None, "the suite, where the results are of several")

    name = "losses"
    paper = f"{TRADEOFFS}, Figures 2, 4 and 5"

    def run(self, say: Say) -> LossesResult:
        groups = self._groups()
        found = {(group.zoo, label): scored for group in groups for label, scored in whole(group)}
        losses = {at: mean(_alone(scored)) for at, scored in found.items()}
        order = sorted(losses, key=lambda at: losses[at].value)
        return LossesResult(
            suite=groups[0].suite,
            tasks=len(groups[0].tasks),
            seeds=sorted(groups[0].cells),
            methods={g.zoo: {at[1]: losses[at] for at in order if at[0] == g.zoo} for g in groups},
            differences=[
                Difference(
                    a=f"{a[1]} on {a[0]}", b=f"{b[1]} on {b[0]}", loss=mean(_paired(found[a], found[b]))
                )
                for a, b in compared(list(found))
            ],
        )

    def figure(self, result: LossesResult) -> Figure:
        """A bar for each method and bank, with the error over tasks."""
        labels = list(dict.fromkeys(label for each in result.methods.values() for label in each))
        figure, axes = new_figure(width=8, height=1.5 + 0.2 * len(labels) * len(result.methods))
        width = 0.8 / len(result.methods)
        for place, ((zoo, methods), colour) in enumerate(
            zip(result.methods.items(), colours(), strict=False)
        ):
            at = [labels.index(label) - 0.4 + (place + 0.5) * width for label in methods]
            errors = [one.se_tasks or 0.0 for one in methods.values()]
            axes.barh(
                at, [one.value for one in methods.values()], width, xerr=errors, color=colour, label=zoo
            )
        axes.set_yticks(range(len(labels)), labels, fontsize="small")
        axes.invert_yaxis()
        axes.set_xlabel(f"nats per token, mean over {result.tasks} tasks of {result.suite}")
        axes.legend(fontsize="small")
        return figure

    def _groups(self) -> list[Group]:
        """The boards of the suite; LorafuseError for none, for several suites, and for other rows or seeds."""
        groups = [group for group in collect([self.results], allow_limit=True) if group.losses]
        chosen = [group for group in groups if self.suite in (None, group.suite)]
        suites = sorted({group.suite for group in groups})
        if len({group.suite for group in chosen}) != 1:
            raise LorafuseError(
                f"{self.results} has results on the suites of losses {', '.join(suites) or '(none)'}, and one is"
                f" shown. {'Name it with --suite.' if suites else 'Run one: lorafuse run --suites mini32.'}"
            )
        if len({tuple(_rows(group)) for group in chosen}) > 1:
            raise LorafuseError(
                f"{self.results}: {', '.join(group.zoo for group in chosen)} were evaluated on other rows or have other"
                " seeds, so they cannot be compared. Run them with the same settings."
            )
        return chosen


def whole(group: Group) -> Iterator[tuple[str, Scored]]:
    """The methods of a board that have every task on every seed, with their losses."""
    for label in dict.fromkeys(label for members in group.cells.values() for label in members):
        cells = {seed: members[label] for seed, members in group.cells.items() if label in members}
        if len(cells) == len(group.cells) and all(
            c.result.tasks.keys() >= set(group.tasks) for c in cells.values()
        ):
            yield label, {seed: [c.representative(key) for key in group.tasks] for seed, c in cells.items()}


def compared(there: Sequence[tuple[str, str]]) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    """Pairs of (zoo, method): one method on two banks, and within a bank those of SIDE_BY_SIDE."""
    for a, b in combinations(there, 2):
        if a[1] == b[1]:
            yield b, a
    for zoo in dict.fromkeys(zoo for zoo, _ in there):
        for one, other in SIDE_BY_SIDE:
            if {(zoo, one), (zoo, other)} <= set(there):
                yield (zoo, one), (zoo, other)


def mean(by_seed: dict[int, list[Estimate]]) -> Loss:
    """The mean of every task's estimate on every seed."""
    total = over_seeds({seed: stats.mean_of(tasks) for seed, tasks in by_seed.items()})
    spreads = [
        stdev(e.value for e in tasks) / len(tasks) ** 0.5 for tasks in by_seed.values() if len(tasks) > 1
    ]
    return Loss(value=total.value, se_items=total.se, se_tasks=fmean(spreads) if spreads else None)


def _alone(scored: Scored) -> dict[int, list[Estimate]]:
    return {seed: [one.estimate() for one in tasks] for seed, tasks in scored.items()}


def _paired(a: Scored, b: Scored) -> dict[int, list[Estimate]]:
    return {seed: list(map(stats.paired_difference, a[seed], b[seed])) for seed in a}


def _rows(group: Group) -> Iterator[tuple[int, str]]:
    """What the methods of a board were evaluated on: each seed and the hash of its rows."""
    for seed in sorted(group.cells):
        tasks = group.reference(seed).result.tasks
        yield from ((seed, tasks[key].docs_sha256) for key in group.tasks)
