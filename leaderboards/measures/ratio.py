"""The ratio of two sums: parts over wholes, nats over tokens, edits over words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from lorafuse_bench.leaderboards.measures.mean import out_of_range
from lorafuse_bench.leaderboards.measures.measure import (
    HIGHEST,
    LOSSES,
    TOLERANCE,
    Array,
    Measure,
    Reading,
    register,
)
from lorafuse_bench.leaderboards.measures.texts import pair_of


def _quotient(sums: Array) -> Array:
    return np.asarray(sums[..., 0] / sums[..., 1])


def _own_quotient(items: Array) -> Array:
    return np.asarray(items[:, 0] / np.maximum(items[:, 1], 1.0))  # an empty text has no loss


def _no_ratio(items: Array, unit: str) -> str | None:
    part, whole = items.T
    if (whole < 0).any() or whole.sum() <= 0:
        return "a denominator that is not positive"
    if unit in HIGHEST and (part > whole + TOLERANCE).any():
        return "a part larger than its whole"
    return out_of_range(part, unit) if unit in LOSSES else None


def _bits(item: Sequence[float]) -> list[float]:
    """[bits, bytes] of lm-eval's (log-likelihood in nats, bytes)."""
    return [-item[0] / math.log(2), item[1]]


def _where_known(item: float) -> list[float]:
    """[score, 1]; of an item without a score [0, 0], so that it counts for nothing."""
    return [0.0, 0.0] if math.isnan(item) else [item, 1.0]


@cache
def _scorer() -> Any:
    from sacrebleu import metrics

    return metrics.TER()


def _edits(item: Sequence[object]) -> list[float]:
    """[100 edits, words of the reference] of a text by the translation edit rate (Snover et al., 2006)."""
    references, text = pair_of(item)
    found = _scorer().corpus_score([text], [[reference] for reference in references])
    return [100.0 * found.num_edits, float(found.ref_length)]


RATIO = register(
    Measure(
        "ratio",
        2,
        "ratio",
        _quotient,
        _own_quotient,
        _no_ratio,
        {
            "bits_per_byte": Reading(_bits, "bits/byte"),
            "nanmean": Reading(_where_known),
            "ter": Reading(_edits, "percent"),
            "lorafuse_bench.tasks.metrics.ifeval.share": Reading(),
        },
    )
)
"""Items: [part, whole]; the value is the ratio of the sums."""
LOSS = register(
    Measure(
        "loss",
        2,
        "ratio",
        _quotient,
        _own_quotient,
        _no_ratio,
        {"lorafuse_bench.tasks.metrics.nll.per_token": Reading()},
    )
)
"""Items: [nats, tokens or bytes]; the value is the ratio of the sums."""
