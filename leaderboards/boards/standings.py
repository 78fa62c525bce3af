"""A method's place on every board, its score with a 95% interval, and the measure of each board."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lorafuse_bench.leaderboards.boards.board import Board, Row, Score
from lorafuse_bench.leaderboards.statistics.stats import Z95


@dataclass(frozen=True)
class Measure:
    """What a board ranks by. `reference` is where a method is as good as what it is held against."""

    name: str
    meaning: str
    reference: float
    signed: bool

    def of(self, row: Row) -> Score | None:
        """The row's score by this measure; None where it is incomplete."""
        if self is LOSS:
            return row.losses.excess if row.losses else None
        return row.change if self is CHANGE else row.ability


ABILITY = Measure("ability", "over the oracle's: 1 is as good as each task's own expert", 1.0, False)
LOSS = Measure("loss above the oracle's", "in nats per token; lower is better", 0.0, True)
CHANGE = Measure("change of what was known before", "after minus before; below 0 is forgotten", 0.0, True)
MEASURES = (ABILITY, LOSS, CHANGE)


def measure_of(board: Board) -> Measure:
    """What this board ranks by."""
    return LOSS if board.losses else CHANGE if board.oblivion else ABILITY


def method_of(label: str) -> str:
    """The method of a label, without its options."""
    return label.partition(":")[0]


@dataclass(frozen=True)
class Standing:
    """One row of a board of a published folder, whose page is at `address` below the site's root."""

    folder: str
    address: str
    board: Board
    row: Row

    @property
    def method(self) -> str:
        return method_of(self.row.label)

    @property
    def measure(self) -> Measure:
        return measure_of(self.board)

    @property
    def score(self) -> Score | None:
        return self.measure.of(self.row)

    @property
    def interval(self) -> tuple[float, float] | None:
        """`score ± 1.96 se`, over items; None where nothing is uncertain, or nobody says how much."""
        score = self.score
        if score is None or score.se is None or self.row.role == "oracle":
            return None
        return score.value - Z95 * score.se, score.value + Z95 * score.se

    @property
    def ranked(self) -> int:
        """How many methods of the board have a place."""
        return sum(row.rank is not None for row in self.board.rows)


def standings(boards: Iterable[tuple[str, str, Board]]) -> dict[str, list[Standing]]:
    """Maps each method to its rows, measured ones first; a paper's row appears once, however many boards show it."""
    found: dict[str, list[Standing]] = {}
    printed = set()
    for folder, address, board in boards:
        for row in board.rows:
            key = (row.source, row.label, board.suite)
            if row.origin == "measured" or key not in printed:
                standing = Standing(folder, address, board, row)
                found.setdefault(standing.method, []).append(standing)
                printed.add(key)
    return {
        method: sorted(held, key=lambda standing: standing.row.origin)
        for method, held in sorted(found.items())
    }


def best_of(held: Iterable[Standing]) -> list[Standing]:
    """Of a method's measured rows the best placed on each board, in the boards' order."""
    best: dict[tuple[str, str, str], Standing] = {}
    for one in held:
        key = (one.folder, one.board.suite, one.board.zoo)
        if one.row.origin == "measured" and (key not in best or _before(one.row, best[key].row)):
            best[key] = one
    return list(best.values())


def _before(row: Row, other: Row) -> bool:
    return row.rank is not None and (other.rank is None or row.rank < other.rank)


@dataclass(frozen=True)
class Scale:
    """Positions of scores on an axis of `width` units that has room for all intervals and the reference."""

    low: float
    high: float
    width: float = 200.0
    margin: float = 6.0

    @classmethod
    def over(cls, held: Sequence[Standing], reference: float) -> Scale:
        values = [reference]
        for standing in held:
            values += standing.interval or ()
            values += [standing.score.value] if standing.score else []
        return cls(min(values), max(values))

    def at(self, value: float) -> float:
        """Of `low` the margin, of `high` the width less the margin."""
        share = (value - self.low) / (self.high - self.low or 1.0)
        return round(self.margin + share * (self.width - 2 * self.margin), 2)
