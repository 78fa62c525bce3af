"""Two labels, 0 and 1: Matthews' correlation, and the F1 of label 1. An item is the count of one answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.measures.measure import Array, Measure, Reading, register


def matthews(sums: Array) -> Array:
    """Matthews correlation of summed counts `(..., 6)`; 0 where it is undefined (no answer varies).

    With the table C (right, written), n its sum, p and t its column and row sums (Gorodkin, 2004, eq. 8):
    (n tr C - p.t) / sqrt((n^2 - p.p) (n^2 - t.t)); "neither" is written but never right.
    """
    table = sums.reshape(*sums.shape[:-1], 2, 3)
    written, right = table.sum(axis=-2), table.sum(axis=-1)
    n = right.sum(axis=-1)
    hits = table[..., 0, 0] + table[..., 1, 1]
    covariance = n * hits - (written[..., :2] * right).sum(axis=-1)
    spread = (n**2 - (written**2).sum(axis=-1)) * (n**2 - (right**2).sum(axis=-1))
    return np.asarray(np.where(spread > 0, covariance / np.sqrt(np.where(spread > 0, spread, 1.0)), 0.0))


def f1(sums: Array) -> Array:
    """`2 hits / (written + right)` of label 1, of summed counts `(..., 6)`; 0 where there is none of it."""
    table = sums.reshape(*sums.shape[:-1], 2, 3)
    there = table[..., 1].sum(axis=-1) + table[..., 1, :].sum(axis=-1)
    return np.asarray(2 * table[..., 1, 1] / np.where(there > 0, there, 1.0))


def _is_right(items: Array) -> Array:
    return np.asarray(items[:, 0] + items[:, 4])


def _no_count(items: Array, unit: str) -> str | None:
    one = ((items == 0) | (items == 1)).all() and (items.sum(axis=1) == 1).all()
    return None if one else "a row that is not one 1 among zeros"


def _count(item: Sequence[float]) -> list[int]:
    """The six counts of lm-eval's (right label, written label)."""
    right, written = item
    if {right, written} - {0, 1}:
        raise LorafuseError(
            f"label {max(right, written)}: f1 and mcc are of two labels, 0 and 1. Name another main metric."
        )
    return [int((i, j) == (right, written)) for i in range(2) for j in range(3)]


MCC = register(
    Measure(
        "mcc",
        6,
        "bootstrap",
        matthews,
        _is_right,
        _no_count,
        {
            "matthews_corrcoef": Reading(_count),
            "lorafuse_bench.tasks.metrics.matthews.correlation": Reading(),
        },
    )
)
"""Items: [right 0: wrote 0, wrote 1, wrote neither; right 1: the same three], one of them 1; alone: the diagonal."""
F1 = register(Measure("f1", 6, "bootstrap", f1, _is_right, _no_count, {"f1": Reading(_count)}))
"""The same items."""
