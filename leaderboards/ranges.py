"""What items of a metric can be, by the kind of the statistic and the unit: counts that no text has are refused."""

from __future__ import annotations

import numpy as np

from lorafuse_bench.leaderboards.stats import BLEU_WIDTH, MCC_WIDTH, Array

TOLERANCE = 1e-9
HIGHEST = {"fraction": 1.0}
"""Unit -> its largest value; 0 is the smallest of all that are listed."""
LOSSES = frozenset({"nats/token", "nats/byte"})


def impossible(items: Array, unit: str) -> str | None:
    """Why no evaluation gives these items (n,), (n, 2), (n, 6) or (n, 10); None where one may."""
    if items.ndim == 1:
        return _number(items, unit)
    return {2: _pairs, MCC_WIDTH: _labels, BLEU_WIDTH: _bleu}[items.shape[1]](items, unit)


def _number(values: Array, unit: str) -> str | None:
    """A loss is -log p, and a fraction lies between 0 and 1."""
    bounded = unit in LOSSES or unit in HIGHEST
    worst = [
        v for v in (values.min(), values.max()) if v < -TOLERANCE or v > HIGHEST.get(unit, np.inf) + TOLERANCE
    ]
    return f"{worst[0]:g} is no {unit}" if bounded and worst else None


def _pairs(items: Array, unit: str) -> str | None:
    part, whole = items.T
    if (whole < 0).any():
        return "a negative denominator"
    if unit in HIGHEST and (part > whole + TOLERANCE).any():
        return "a part larger than its whole"
    return _number(part if unit in LOSSES else part / np.maximum(whole, 1.0), unit)


def _labels(items: Array, unit: str) -> str | None:
    one = ((items == 0) | (items == 1)).all() and (items.sum(axis=1) == 1).all()
    return None if one else "a row that is not one 1 among zeros"


def _bleu(items: Array, unit: str) -> str | None:
    """A text of L tokens has max(0, L - k + 1) k-grams, of which no more match than there are of a shorter order."""
    correct, total, length = items[:, 2:6], items[:, 6:10], items[:, :1]
    if (items != np.rint(items)).any() or (items < 0).any():
        return "a count that is no whole number"
    if (total != np.maximum(length - np.arange(4), 0)).any():
        return "n-grams that a text of that length does not have"
    if (correct > total).any() or (np.diff(correct) > 0).any():
        return "more matches than there are n-grams"
    return None
