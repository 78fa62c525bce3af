"""Rank intervals on a board: the ability of every complete method over the same bootstrap draws."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from lorafuse_bench.leaderboards.boards.board import Pair, Ranking, Row
from lorafuse_bench.leaderboards.boards.collect import Group
from lorafuse_bench.leaderboards.measures import Array
from lorafuse_bench.leaderboards.statistics import rank_intervals, stats


def ranked(group: Group, rows: Sequence[Row], counted: Collection[str]) -> tuple[list[Row], Ranking | None]:
    """Best first, the incomplete last; ranks for methods only: floors and the oracle are references.

    On a board of losses the best is the least above the oracle. On a board of oblivion, which has no ability, nothing
    is ranked and the best is what changed least for the worse.
    """
    merits = {row.label: merit_of(row) for row in rows}
    whole = sorted(
        (row for row in rows if row.ability or row.losses), key=lambda row: (-merits[row.label], row.label)
    )
    rest = sorted((row for row in rows if row not in whole), key=lambda row: (-change_of(row), row.label))
    methods = [row for row in whole if row.role == "method"]
    if not methods:
        return [*whole, *rest], None
    values = np.array([merits[row.label] for row in methods])
    draws = loss_draws if group.losses else ability_draws
    found = rank_intervals.ranks(values, draws(group, [row.label for row in methods], counted))
    places = {
        row.label: {
            "rank": 1 + int((values > values[i]).sum()),
            "rank_low": int(found.low[i]),
            "rank_high": int(found.high[i]),
            "tied": int((values == values[i]).sum()) > 1,
        }
        for i, row in enumerate(methods)
    }
    placed = [row.model_copy(update=places.get(row.label, {})) for row in whole]
    return [*placed, *rest], _ranking(methods, values, found)


def merit_of(row: Row) -> float:
    """What methods are compared by, the larger the better: ability, or the oracle's loss minus theirs.

    To ten digits, as written.
    """
    if row.losses:
        return float(f"{-row.losses.excess.value:.10g}")
    return float(f"{row.ability.value:.10g}") if row.ability else float("-inf")


def change_of(row: Row) -> float:
    """The change from the base for comparing."""
    return row.change.value if row.change else float("-inf")


def ability_draws(group: Group, labels: Sequence[str], counted: Collection[str]) -> Array:
    """(methods, draws): the mean of normalised scores over resampled items, stratified by task.

    The oracle is resampled with the methods. Zoos that share a task's documents share its draws.
    """
    draws = np.zeros((len(labels), stats.BOOTSTRAP_DRAWS))
    terms = 0
    for seed, members in group.cells.items():
        for key, task in members[group.oracle].result.tasks.items():
            if key not in counted or task.metrics[task.representative].direction == "down":
                continue
            scores = group.draws(seed, key)
            draws += np.stack([scores[label] for label in labels]) / scores[group.oracle]
            terms += 1
    return draws / terms


def loss_draws(group: Group, labels: Sequence[str], _: Collection[str]) -> Array:
    """(methods, draws): the oracle's mean loss minus the method's over resampled items, stratified by task."""
    tasks = [
        (seed, key) for seed, members in group.cells.items() for key in members[group.oracle].result.tasks
    ]
    draws = np.zeros((len(labels), stats.BOOTSTRAP_DRAWS))
    for seed, key in tasks:
        drawn = group.draws(seed, key)
        draws += np.stack([drawn[group.oracle] - drawn[label] for label in labels])
    return draws / len(tasks)


def _ranking(methods: Sequence[Row], values: Array, found: rank_intervals.Ranks) -> Ranking:
    pairs = tuple(
        Pair(
            a=methods[i].label,
            b=methods[j].label,
            difference=float(values[i] - values[j]),
            se=_short(found.se[i, j]),
            p=_short(found.p[i, j]),
        )
        for i in range(len(methods))
        for j in range(i + 1, len(methods))
    )
    return Ranking(
        draws=stats.BOOTSTRAP_DRAWS, seed=stats.BOOTSTRAP_SEED, level=rank_intervals.LEVEL, pairs=pairs
    )


def _short(value: float) -> float:
    """Four digits: more would depend on the order in which a processor adds up the draws."""
    return float(f"{value:.4g}")
