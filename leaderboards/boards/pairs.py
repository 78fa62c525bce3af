"""Every method against every other on the same items: standard errors of differences, items won and lost.

The values of the differences follow from the board; what cannot be had from it is how the two methods'
errors go together, and that is computed here, once, with the statistics that the board itself uses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lorafuse_bench.leaderboards.boards.board import Board
from lorafuse_bench.leaderboards.boards.collect import Cell, Group
from lorafuse_bench.leaderboards.boards.ranking import ability_draws
from lorafuse_bench.leaderboards.measures import Array
from lorafuse_bench.leaderboards.results.samples import item_scores
from lorafuse_bench.leaderboards.statistics.rank_intervals import difference_errors
from lorafuse_bench.leaderboards.statistics.stats import Statistic

TIE = 1e-9  # scores closer than this are the same


@dataclass(frozen=True)
class Pairs:
    """Pairs of methods on one task, or on the ability.

    `se` (m, m): standard error of `labels[i]` minus `labels[j]` over items; with several seeds their mean,
    a bound, as everywhere. `better` (m, m): of `items`, over all seeds, those that i scores better than j;
    None for the ability.
    """

    labels: tuple[str, ...]
    se: Array
    items: int = 0
    better: Array | None = None


def task_pairs(group: Group, key: str) -> Pairs:
    """All pairs of the methods measured on the task with every seed."""
    labels = _in_every_zoo(group, lambda cell: key in cell.result.tasks)
    zoos = [[members[label] for label in labels] for _, members in sorted(group.cells.items())]
    return Pairs(
        labels=labels,
        se=_mean([_errors([cell.representative(key) for cell in cells]) for cells in zoos]),
        items=sum(cells[0].result.tasks[key].n for cells in zoos),
        better=np.sum([_wins(key, cells) for cells in zoos], axis=0),
    )


def ability_pairs(group: Group, board: Board) -> Pairs | None:
    """All pairs of complete methods, on the mean of their normalised scores; None where no task counts."""
    counted = [column.task for column in board.columns if column.counts and column.direction == "up"]
    labels = _in_every_zoo(group, lambda cell: all(key in cell.result.tasks for key in group.tasks))
    if not counted:
        return None
    return Pairs(labels, difference_errors(ability_draws(group, labels, counted)))


def _in_every_zoo(group: Group, keep: Callable[[Cell], bool]) -> tuple[str, ...]:
    zoos = [{label for label, cell in members.items() if keep(cell)} for members in group.cells.values()]
    return tuple(sorted(set.intersection(*zoos)))


def _mean(arrays: list[Array]) -> Array:
    return np.asarray(np.mean(arrays, axis=0))


def _errors(statistics: Sequence[Statistic]) -> Array:
    """Standard error of every paired difference; nan where one item leaves nothing to estimate it from."""
    deviations = np.stack([statistic.deviations for statistic in statistics])
    if deviations.shape[1] < 2:
        return np.full((len(statistics), len(statistics)), np.nan)
    return difference_errors(deviations) * statistics[0].scale


def _wins(key: str, cells: Sequence[Cell]) -> Array:
    """How many items each scores better than each other; for a loss, better is less."""
    task = cells[0].result.tasks[key]
    sign = 1.0 if task.metrics[task.representative].direction == "up" else -1.0
    scores = np.array(
        [sign * item_scores(x.items, x.measure) for x in (cell.representative(key) for cell in cells)]
    )
    return np.array([(mine > scores + TIE).sum(axis=1) for mine in scores])
