"""Perplexity: the exponential of a loss, of all items together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lorafuse_bench.leaderboards.measures.measure import Array, Measure, Reading, register
from lorafuse_bench.leaderboards.measures.ratio import RATIO


def _exponential(sums: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(RATIO.of_sums(sums)))


def _alone(items: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(RATIO.per_item(items)))


def _of_text(item: float) -> list[float]:
    """[nats, 1] of lm-eval's log-likelihood."""
    return [-item, 1.0]


def _of_length(item: Sequence[float]) -> list[float]:
    """[nats, words or bytes] of lm-eval's (log-likelihood, words or bytes)."""
    return [-item[0], item[1]]


PERPLEXITY = register(
    Measure(
        "perplexity",
        2,
        "bootstrap",
        _exponential,
        _alone,
        RATIO.impossible,
        {
            "perplexity": Reading(_of_text, "perplexity"),
            "weighted_perplexity": Reading(_of_length, "perplexity"),
        },
    )
)
"""Items: [nats, words, bytes or texts]; the value is exp(sum of nats / sum of these)."""
