"""What measured boards say of the papers' findings: it holds, it does not, it cannot be told, or nobody measured it.

A side's score is the mean over tasks, and over the zoo's seeds, of what its board compares: the metric over
the oracle's, the raw metric on a board of oblivion, minus the loss where losses are scored. The difference of
two sides has the paired bootstrap's interval: both sides, and their oracles, see the same items in each draw,
across boards too. Where an analysis has the two sides, as a number for each task or expert, they are paired by
these, and the interval is Student's over them. p values are corrected by Holm over one paper's findings on one zoo,
and apart on each suite that stands in for the paper's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.stats import t as student

from lorafuse_bench.leaderboards.boards.board import Board, Leaderboard
from lorafuse_bench.leaderboards.boards.collect import Cell, Group
from lorafuse_bench.leaderboards.claims import Claim, Paper, Side
from lorafuse_bench.leaderboards.claims.analysed import Analysed
from lorafuse_bench.leaderboards.measures import Array
from lorafuse_bench.leaderboards.statistics import rank_intervals, stats

Ruling = Literal["holds", "does not hold", "cannot be told", "not measured"]


@dataclass(frozen=True)
class Verdict:
    """One finding on one zoo. `difference` is left minus right, with its 95% interval; None where not measured."""

    paper: str
    claim: Claim
    zoo: str | None
    ruling: Ruling
    left: float | None = None
    right: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    """p of the ruling's own test, after Holm's correction."""
    tasks: tuple[str, ...] = ()
    """The tasks, or the experts, whose numbers the sides are means of."""
    seeds: int = 0


@dataclass(frozen=True)
class _Measured:
    """A finding's two sides on one zoo, before the correction for the number of findings."""

    verdict: Verdict
    se: float
    freedom: float = math.inf
    """Degrees of freedom of `se`; infinite where it is the bootstrap's."""

    @property
    def p(self) -> float:
        """p against the finding's null: no difference, or for `about` one of at least the margin."""
        claim, difference = self.verdict.claim, self.verdict.difference or 0.0
        # Of `about`, how far the difference lies from the nearer edge of the margin, inside or outside of it.
        off = difference if claim.relation == "over" else abs(difference) - claim.margin
        if math.isinf(self.freedom) or off == 0 or self.se == 0:
            return rank_intervals.two_sided(off, self.se)
        return float(2 * student.sf(abs(off) / self.se, self.freedom))

    def ruled(self, p: float) -> Verdict:
        claim, difference = self.verdict.claim, self.verdict.difference or 0.0
        supports = difference > 0 if claim.relation == "over" else abs(difference) < claim.margin
        ruling: Ruling = (
            "cannot be told" if p > rank_intervals.LEVEL else "holds" if supports else "does not hold"
        )
        return replace(self.verdict, ruling=ruling, p=p)


def verdicts(
    groups: Iterable[Group],
    leaderboard: Leaderboard,
    papers: Sequence[Paper],
    analysed: Analysed | None = None,
) -> list[Verdict]:
    """Every finding on every zoo that measured it; once without a zoo where none did.

    `groups` are the cells that `leaderboard` was built of.
    """
    boards, analysed = _Boards(groups, leaderboard), analysed or Analysed()
    zoos = sorted(boards.zoos | analysed.zoos)
    found: list[Verdict] = []
    for paper in papers:
        ruled = [
            verdict
            for claims in paper.forms()
            for zoo in zoos
            for verdict in _on_zoo(paper.name, claims, zoo, boards, analysed)
        ]
        for claim in paper.claims:
            own = [verdict for verdict in ruled if verdict.claim.id == claim.id]
            found += own or [Verdict(paper.name, claim, None, "not measured")]
    return found


def _on_zoo(
    paper: str, claims: Sequence[Claim], zoo: str, boards: _Boards, analysed: Analysed
) -> list[Verdict]:
    both = [
        _by_analysis(paper, claim, zoo, analysed) if claim.analysis else _by_boards(paper, claim, zoo, boards)
        for claim in claims
    ]
    measured = [one for one in both if one is not None]
    corrected = rank_intervals.holm(np.array([one.p for one in measured])) if measured else np.empty(0)
    return [one.ruled(float(p)) for one, p in zip(measured, corrected, strict=True)]


def _by_boards(paper: str, claim: Claim, zoo: str, boards: _Boards) -> _Measured | None:
    """The finding's difference on one zoo; None where a side, a task or a seed is missing."""
    if claim.left is None or claim.right is None:
        return None
    tasks = boards.tasks(zoo, claim)
    left, right = boards.side(zoo, claim.left, tasks), boards.side(zoo, claim.right, tasks)
    if left is None or right is None or left.seeds != right.seeds:
        return None
    se = float(np.std(left.draws - right.draws, ddof=1))
    verdict = Verdict(paper, claim, zoo, "cannot be told", left.value, right.value)
    return _with_interval(replace(verdict, tasks=tasks, seeds=len(left.seeds)), se)


def _by_analysis(paper: str, claim: Claim, zoo: str, analysed: Analysed) -> _Measured | None:
    """The mean difference of the paired numbers on one zoo; None where its result lacks a side."""
    if claim.analysis is None or claim.reading is None:
        return None
    pair = analysed.pair(claim.analysis, claim.reading, zoo)
    if pair is None:
        return None
    left, right, names = pair
    se = float(np.std(left - right, ddof=1) / math.sqrt(len(names)))
    verdict = Verdict(paper, claim, zoo, "cannot be told", float(left.mean()), float(right.mean()))
    return _with_interval(replace(verdict, tasks=names, seeds=1), se, len(names) - 1)


def _with_interval(verdict: Verdict, se: float, freedom: float = math.inf) -> _Measured:
    difference = (verdict.left or 0.0) - (verdict.right or 0.0)
    half = (stats.Z95 if math.isinf(freedom) else float(student.ppf(0.975, freedom))) * se
    low, high = difference - half, difference + half
    return _Measured(replace(verdict, difference=difference, low=low, high=high), se, freedom)


@dataclass(frozen=True)
class _Scored:
    """Value and bootstrap draws of a side, or of one of its tasks, the larger the better."""

    value: float
    draws: Array
    seeds: tuple[int, ...] = ()


class _Boards:
    """The boards by suite and zoo, with what was drawn of them so far."""

    def __init__(self, groups: Iterable[Group], leaderboard: Leaderboard) -> None:
        self.groups = {(group.suite, group.zoo): group for group in groups}
        self.boards: dict[tuple[str, str], Board] = {
            (board.suite, board.zoo): board for board in leaderboard.boards
        }
        self.zoos = {zoo for _, zoo in self.groups}
        self._drawn: dict[tuple[str, str, int, str, str], _Scored] = {}

    def tasks(self, zoo: str, claim: Claim) -> tuple[str, ...]:
        """The claim's tasks, or those that count on the boards of both sides; none where one does not count."""
        counted = [
            [column.task for column in board.columns if column.counts or board.oblivion]
            for side in claim.sides
            if (board := self.boards.get(side.on(zoo))) is not None
        ]
        if len(counted) < len(claim.sides):
            return ()
        shared = [key for key in counted[0] if key in counted[1]]
        wanted = claim.tasks or tuple(shared)
        return wanted if set(wanted) <= set(shared) else ()

    def side(self, zoo: str, side: Side, tasks: Sequence[str]) -> _Scored | None:
        """The mean over seeds and tasks; None where the board, or some zoo of it, lacks the method or a task."""
        group = self.groups.get(side.on(zoo))
        if group is None or not tasks:
            return None
        seeds = tuple(sorted(group.cells))
        cells = [_of_method(group, seed, side.method) for seed in seeds]
        if not all(cell and set(tasks) <= set(cell.result.tasks) for cell in cells):
            return None
        terms = [self._score(group, cell, key) for cell in cells if cell for key in tasks]
        value = float(np.mean([term.value for term in terms]))
        return _Scored(value, np.asarray(np.mean([term.draws for term in terms], axis=0)), seeds)

    def _score(self, group: Group, cell: Cell, key: str) -> _Scored:
        at = (group.suite, group.zoo, cell.seed, cell.label, key)
        if at not in self._drawn:
            task = cell.result.tasks[key]
            drawn, value = group.draws(cell.seed, key), cell.representative(key).value
            own = drawn[cell.label]
            if task.metrics[task.representative].direction == "down":
                self._drawn[at] = _Scored(-value, -own)
            elif group.oblivion:
                self._drawn[at] = _Scored(value, own)
            else:
                oracle = group.cells[cell.seed][group.oracle].representative(key)
                self._drawn[at] = _Scored(value / oracle.value, own / drawn[group.oracle])
        return self._drawn[at]


def _of_method(group: Group, seed: int, method: str) -> Cell | None:
    """The cell of that label; of a trained adapter, whose options are its sizes, the only one of that name."""
    members = group.cells[seed]
    if method in members:
        return members[method]
    trained = [cell.result for cell in members.values() if cell.result.method.family == "adapters"]
    named = [result.method.label for result in trained if result.method.name == method]
    return members[named[0]] if len(named) == 1 else None
