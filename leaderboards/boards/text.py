"""Numbers as people read them: the same in the terminal and on the page."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorafuse_bench.leaderboards.boards.board import Column, Row, Score, TaskScores


def number(value: float) -> str:
    """Three decimals; never a minus before zero."""
    text = f"{value:.3f}"
    return text.removeprefix("-") if float(text) == 0 else text


def signed(value: float) -> str:
    """A difference: `+0.012`, `-0.012` or `0.000`."""
    text = number(value)
    return f"+{text}" if float(text) > 0 else text


def uncertainty(score: Score) -> str:
    """`±0.012`: over seeds where there are several, else over items; empty where unknown."""
    error = score.sd if score.sd is not None else score.se
    return "" if error is None else f"±{error:.3f}"


def place(row: Row) -> str:
    """`2`, or `1–3` where those places cannot be told apart; `=` where another's ability is the very same."""
    if row.rank is None:
        return "–"
    low, high = row.rank_low or row.rank, row.rank_high or row.rank
    return (str(low) if low == high else f"{low}–{high}") + ("=" if row.tied else "")


def amount(count: float) -> str:
    """`950`, `12.3K`, `4.56M`, `1.20B`: three digits."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return f"{count:.0f}"


def seconds(duration: float) -> str:
    return f"{duration:.0f}" if duration >= 100 else f"{duration:.1f}"


def shown(column: Column, scores: TaskScores) -> tuple[Score | None, str]:
    """What a task's cell shows, and what kind of number that is.

    `normalised`: over the oracle; `difference`: a loss minus the oracle's; `raw`: the metric itself,
    where the task does not count.
    """
    if scores.normalised is not None:
        return scores.normalised, "normalised"
    if scores.difference is not None:
        return scores.difference, "difference"
    return scores.metrics.get(column.metric), "raw"


def printable(content: str) -> str:
    """Text as a terminal may show it: control characters, which could move its cursor, become `?`."""
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs") else "?" for c in content
    )
