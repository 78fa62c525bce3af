"""From cells to a leaderboard: oracle gate, normalised scores, ability, ranks, the papers' rows beside."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from lorafuse_bench.leaderboards.boards.board import (
    Board,
    Column,
    Leaderboard,
    Losses,
    Role,
    Row,
    Score,
    TaskScores,
)
from lorafuse_bench.leaderboards.boards.collect import BASE, Cell, Group, collect, is_oracle
from lorafuse_bench.leaderboards.boards.controls import beneath, controlled
from lorafuse_bench.leaderboards.boards.provenance import caption, provenance_of, replicate_of
from lorafuse_bench.leaderboards.boards.ranking import ranked
from lorafuse_bench.leaderboards.boards.reported_rows import reported_rows
from lorafuse_bench.leaderboards.results.made_of import Cost, Method
from lorafuse_bench.leaderboards.statistics import stats
from lorafuse_bench.leaderboards.statistics.stats import Estimate

FLOOR = "floor"


def build(paths: Iterable[str | Path], allow_limit: bool = False, note: str = "") -> Leaderboard:
    """The leaderboard of all cells below `paths`; `note` opens every caption.

    Pure but for reading: the same cells give the same leaderboard. LorafuseError, naming file and field,
    for cells that must not be compared (see collect.py).
    """
    return of_groups(collect(paths, allow_limit), note)


def of_groups(groups: Iterable[Group], note: str = "") -> Leaderboard:
    """The leaderboard of cells that were collected already, with their statistics."""
    return Leaderboard(boards=tuple(_board(group, note) for group in groups))


def _board(group: Group, note: str) -> Board:
    columns = tuple(_column(group, key) for key in group.tasks)
    counted = frozenset(column.task for column in columns if column.counts)
    labels = {label: None for members in group.cells.values() for label in members}
    rows, ranking = ranked(group, [_row(group, label, counted) for label in labels], counted)
    provenance = provenance_of(group)
    return Board(
        suite=group.suite,
        zoo=group.zoo,
        caption=caption(group, columns, provenance, note, rows),
        provenance=provenance,
        replicates=tuple(replicate_of(seed, group.reference(seed)) for seed in sorted(group.cells)),
        oblivion=group.oblivion,
        losses=group.losses,
        columns=columns,
        ranking=ranking,
        rows=(*beneath(rows), *reported_rows(group.suite, group.oblivion)),
    )


def _column(group: Group, key: str) -> Column:
    """A task counts only if its oracle passes the gate in every zoo. This is decided once, for all methods."""
    task = group.reference(next(iter(group.cells))).result.tasks[key]
    metric = task.metrics[task.representative]
    reasons = [] if group.oblivion else _against_counting(group, key, metric.direction)
    return Column(
        task=key,
        metric=task.representative,
        direction=metric.direction,
        unit=metric.unit,
        dataset=task.dataset,
        n=task.n,
        counts=not (reasons or group.oblivion),
        reason="; ".join(reasons) or None,
    )


def _against_counting(group: Group, key: str, direction: str) -> list[str]:
    """Why the zoos' oracles do not pass their gates."""
    reasons = []
    for seed, members in sorted(group.cells.items()):
        oracle, base = members[group.oracle].representative(key), members[BASE].representative(key)
        reason = stats.oracle_gate(oracle, base, direction)
        if reason is not None:
            reasons.append(reason if len(group.cells) == 1 else f"seed {seed}: {reason}")
    return reasons


def _row(group: Group, label: str, counted: frozenset[str]) -> Row:
    """One method over the group's zoos; if anything is missing, its ability is empty."""
    cells = {seed: members[label] for seed, members in sorted(group.cells.items()) if label in members}
    some = next(iter(cells.values()))
    tasks = {}
    for key in group.tasks:
        having = {seed: cell for seed, cell in cells.items() if key in cell.result.tasks}
        if having:
            tasks[key] = _task_scores(group, key, having, key in counted)
    note = _missing(group, cells)
    scores = group.tasks if group.oblivion and not note else ()
    return Row(
        label=label,
        family=some.result.method.family,
        role=_role(some.result.method),
        control_of=controlled(label),
        method_lead=_lead(group, cells, controlled(label), counted),
        origin="measured",
        note=note,
        ability=_mean_over(cells, () if note else counted, partial(_ratio, group)),
        overall=_mean_over(cells, scores, _raw),
        change=_mean_over(cells, scores, partial(_change, group)),
        losses=_losses(group, cells, counted) if group.losses and not note else None,
        tasks=tasks,
        cost=_mean_cost([cell.result.cost for cell in cells.values()]),
        run_ids=tuple(cell.result.run_id for cell in cells.values()),
        options=some.result.method.options,
        version=some.result.method.version,
        sources=tuple(sorted({cell.result.method.source_sha256 for cell in cells.values()})),
    )


def _role(method: Method) -> Role:
    """The base and a control go by their labels; any other floor, such as one wrong expert, by its family."""
    if controlled(method.label):
        return "control"
    if is_oracle(method):
        return "oracle"
    return "floor" if method.label == BASE or method.family == FLOOR else "method"


def _missing(group: Group, cells: Mapping[int, Cell]) -> str | None:
    """`incomplete 4/5` (tasks, the least of any zoo) or `incomplete 2/3 seeds`, or None."""
    least = min(len(cell.result.tasks) for cell in cells.values())
    if least < len(group.tasks):
        return f"incomplete {least}/{len(group.tasks)}"
    if len(cells) < len(group.cells):
        return f"incomplete {len(cells)}/{len(group.cells)} seeds"
    return None


def _task_scores(group: Group, key: str, cells: Mapping[int, Cell], counts: bool) -> TaskScores:
    """One method on one task: every metric raw, and beside the oracle what its direction allows."""
    names = list(next(iter(cells.values())).statistics[key])
    metrics = {
        name: over_seeds({seed: cell.statistics[key][name].estimate() for seed, cell in cells.items()})
        for name in names
        if all(name in cell.statistics[key] for cell in cells.values())
    }
    if group.oblivion:
        change = over_seeds({seed: _change(group, seed, cell, key) for seed, cell in cells.items()})
        return TaskScores(metrics=metrics, change=change)
    task = next(iter(cells.values())).result.tasks[key]
    trios = {
        seed: tuple(
            c.representative(key) for c in (cell, group.cells[seed][BASE], group.cells[seed][group.oracle])
        )
        for seed, cell in cells.items()
    }
    if task.metrics[task.representative].direction == "up":
        normalised = {seed: stats.paired_ratio(x, y) for seed, (x, _, y) in trios.items()} if counts else None
        return TaskScores(metrics=metrics, normalised=over_seeds(normalised) if normalised else None)
    recovered = {seed: stats.recovered_gap(*trio) for seed, trio in trios.items()} if counts else None
    return TaskScores(
        metrics=metrics,
        difference=over_seeds({seed: stats.paired_difference(x, y) for seed, (x, _, y) in trios.items()}),
        recovered=over_seeds(recovered) if recovered else None,
    )


def _mean_over(
    cells: Mapping[int, Cell], keys: Collection[str], of: Callable[[int, Cell, str], Estimate]
) -> Score | None:
    """Unweighted mean over tasks, without losses; None if there are none."""
    by_seed = {}
    for seed, cell in cells.items():
        estimates = [
            of(seed, cell, key)
            for key, task in cell.result.tasks.items()
            if key in keys and task.metrics[task.representative].direction == "up"
        ]
        if not estimates:
            return None
        by_seed[seed] = stats.mean_of(estimates)
    return over_seeds(by_seed)


def _lead(group: Group, cells: Mapping[int, Cell], of: str | None, counted: Collection[str]) -> Score | None:
    """By how much a control's method is better, by what the board ranks; None where either is incomplete."""
    method = {seed: members[of] for seed, members in sorted(group.cells.items()) if of in members}
    if not method or _missing(group, method) or _missing(group, cells):
        return None

    def better(seed: int, control: Cell, key: str) -> Estimate:
        x, z = method[seed].representative(key), control.representative(key)
        if group.oblivion or group.losses:
            return stats.paired_difference(*((z, x) if group.losses else (x, z)))
        return stats.difference_of_ratios(x, z, group.cells[seed][group.oracle].representative(key))

    if not group.losses:
        return _mean_over(cells, group.tasks if group.oblivion else counted, better)
    each = {seed: [better(seed, cell, key) for key in group.tasks] for seed, cell in cells.items()}
    return over_seeds({seed: stats.mean_of(estimates) for seed, estimates in each.items()})


def _losses(group: Group, cells: Mapping[int, Cell], counted: Collection[str]) -> Losses:
    """Means over all tasks, and of the recovered gap over those whose oracle beats the base."""

    def over_tasks(keys: Collection[str], of: Callable[[int, Cell, str], Estimate]) -> Score:
        return over_seeds(
            {seed: stats.mean_of([of(seed, cell, key) for key in keys]) for seed, cell in cells.items()}
        )

    def recovered(seed: int, cell: Cell, key: str) -> Estimate:
        references = (group.cells[seed][name].representative(key) for name in (BASE, group.oracle))
        return stats.recovered_gap(cell.representative(key), *references)

    values = [[cell.representative(key).value for key in group.tasks] for cell in cells.values()]
    spread = [float(np.std(each, ddof=1) / len(each) ** 0.5) for each in values if len(each) > 1]
    return Losses(
        mean=over_tasks(group.tasks, _raw),
        se_tasks=float(np.mean(spread)) if spread else None,
        excess=over_tasks(group.tasks, partial(_above_oracle, group)),
        recovered=over_tasks([key for key in group.tasks if key in counted], recovered) if counted else None,
    )


def _above_oracle(group: Group, seed: int, cell: Cell, key: str) -> Estimate:
    return stats.paired_difference(
        cell.representative(key), group.cells[seed][group.oracle].representative(key)
    )


def _raw(_: int, cell: Cell, key: str) -> Estimate:
    return cell.representative(key).estimate()


def _ratio(group: Group, seed: int, cell: Cell, key: str) -> Estimate:
    return stats.paired_ratio(cell.representative(key), group.cells[seed][group.oracle].representative(key))


def _change(group: Group, seed: int, cell: Cell, key: str) -> Estimate:
    return stats.paired_difference(cell.representative(key), group.cells[seed][BASE].representative(key))


def over_seeds(by_seed: Mapping[int, Estimate]) -> Score:
    """Mean and standard deviation over zoos.

    The error over items of the mean is at most the mean of the zoos' errors, whether or not they share
    their items; that bound is what `se` holds.
    """
    values = [estimate.value for estimate in by_seed.values()]
    errors = [estimate.se for estimate in by_seed.values()]
    return Score(
        value=float(np.mean(values)),
        se=None if None in errors else float(np.mean([e for e in errors if e is not None])),
        sd=float(np.std(values, ddof=1)) if len(values) > 1 else None,
        by_seed={seed: estimate.value for seed, estimate in by_seed.items()},
    )


def _mean_cost(costs: list[Cost]) -> Cost:
    peak = _mean_known([c.peak_bytes for c in costs])
    return Cost(
        fuse_seconds=float(np.mean([c.fuse_seconds for c in costs])),
        eval_seconds=float(np.mean([c.eval_seconds for c in costs])),
        tokens_per_second=_mean_known([c.tokens_per_second for c in costs]),
        peak_bytes=None if peak is None else round(peak),
        extra_parameters=round(float(np.mean([c.extra_parameters for c in costs]))),
        route_seconds=_mean_known([c.route_seconds for c in costs]),
        served_seconds_per_1000_tokens=_mean_known([c.served_seconds_per_1000_tokens for c in costs]),
    )


def _mean_known(values: Sequence[float | None]) -> float | None:
    """The mean, or None where one is not known."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None
