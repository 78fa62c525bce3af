"""chrF and chrF++ in percent (Popović, 2015 and 2017): the F2 of characters' n-grams, and of words' beside them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import numpy as np

from lorafuse_bench.leaderboards.measures.measure import Array, Measure, Reading, register
from lorafuse_bench.leaderboards.measures.texts import pair_of

CHARACTERS, BETA = 6, 2
"""The longest n-gram of characters, and how much more recall weighs than precision."""


def f_score(sums: Array) -> Array:
    """`100 (1 + b²) P R / (b² P + R)` of summed counts `(..., 3 orders)`, each order's [written, right, matched].

    P and R are the means of the orders' precisions and recalls, over those orders that both texts have.
    """
    counts = sums.reshape(*sums.shape[:-1], -1, 3)
    written, right, matched = counts[..., 0], counts[..., 1], counts[..., 2]
    both = (written > 0) & (right > 0)
    orders = np.maximum(both.sum(axis=-1), 1)
    precision = np.where(both, matched / np.maximum(written, 1), 0.0).sum(axis=-1) / orders
    recall = np.where(both, matched / np.maximum(right, 1), 0.0).sum(axis=-1) / orders
    below = BETA**2 * precision + recall
    return np.asarray(100 * (1 + BETA**2) * precision * recall / np.where(below > 0, below, 1.0))


def _no_counts(items: Array, unit: str) -> str | None:
    counts = items.reshape(len(items), -1, 3)
    if (items != np.rint(items)).any() or (items < 0).any():
        return "a count that is no whole number"
    return "more matches than there are n-grams" if (counts[..., 2:] > counts[..., :2]).any() else None


@cache
def _scorer(words: int) -> Any:
    from sacrebleu import metrics

    return metrics.CHRF(char_order=CHARACTERS, word_order=words, beta=BETA)


def _counts(item: Sequence[object], words: int) -> list[int]:
    """The counts of lm-eval's (references, text), against the reference that fits best."""
    references, text = pair_of(item)
    (found,) = _scorer(words)._extract_corpus_statistics([text], [[reference] for reference in references])
    return [int(count) for count in found]


def _measure(name: str, words: int) -> Measure:
    reading = Reading(partial(_counts, words=words), "percent")
    return Measure(name, 3 * (CHARACTERS + words), "bootstrap", f_score, f_score, _no_counts, {name: reading})


CHRF = register(_measure("chrf", 0))
"""Items: [written, right, matched] n-grams of characters, for n from 1 to 6."""
CHRF_WORDS = register(_measure("chrf++", 2))
"""The same, and of words for n from 1 to 2."""
