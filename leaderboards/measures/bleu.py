"""Corpus BLEU (Papineni et al., 2002), on 0-1 and as lm-eval's own tasks have it in percent."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from lorafuse_bench.leaderboards.measures.measure import Array, Measure, Reading, register
from lorafuse_bench.leaderboards.measures.texts import pair_of


def corpus_bleu(sums: Array) -> Array:
    """Corpus BLEU on 0-1 of summed statistics `(..., 10)`: brevity penalty times geometric mean precision.

    As sacrebleu's default: an order with no match counts as 1 / (2^k total), the k-th such order; no
    match at all, or an order without any n-gram, gives 0.
    """
    system, reference = sums[..., 0], sums[..., 1]
    correct, total = sums[..., 2:6], sums[..., 6:10]
    missed = (correct == 0) & (total > 0)
    smoothed = np.where(missed, 0.5 ** np.cumsum(missed, axis=-1), correct)
    possible = np.asarray((total > 0).all(axis=-1) & (correct > 0).any(axis=-1))
    precision = np.where(possible[..., None], smoothed / np.where(total > 0, total, 1.0), 1.0)
    brevity = np.minimum(0.0, 1.0 - reference / np.where(system > 0, system, 1.0))
    bleu = np.exp(brevity + np.log(precision).mean(axis=-1))
    return np.asarray(np.where(possible, bleu, 0.0))


def _percent(sums: Array) -> Array:
    return 100 * corpus_bleu(sums)


def _no_counts(items: Array, unit: str) -> str | None:
    """A text of L tokens has max(0, L - k + 1) k-grams, of which no more match than there are of a shorter order."""
    correct, total, length = items[:, 2:6], items[:, 6:10], items[:, :1]
    if (items != np.rint(items)).any() or (items < 0).any():
        return "a count that is no whole number"
    if (total != np.maximum(length - np.arange(4), 0)).any():
        return "n-grams that a text of that length does not have"
    if (correct > total).any() or (np.diff(correct) > 0).any():
        return "more matches than there are n-grams"
    return None


@cache
def _scorer() -> Any:
    from sacrebleu import metrics

    return metrics.BLEU()


def _counts(item: Sequence[object]) -> list[int]:
    """The ten counts of lm-eval's (references, text)."""
    references, text = pair_of(item)
    found = _scorer().corpus_score([text], [[reference] for reference in references])
    return [int(count) for count in (found.sys_len, found.ref_len, *found.counts, *found.totals)]


BLEU = register(
    Measure(
        "bleu",
        10,
        "bootstrap",
        corpus_bleu,
        corpus_bleu,
        _no_counts,
        {"lorafuse_bench.tasks.metrics.bleu.corpus_bleu": Reading()},
    )
)
"""Items: [sys_len, ref_len, correct 1..4, total 1..4], sacrebleu's order."""
BLEU_PERCENT = register(
    Measure(
        "bleu_percent",
        10,
        "bootstrap",
        _percent,
        _percent,
        _no_counts,
        {"bleu": Reading(_counts, "percent")},
    )
)
"""The same items; the value is on 0-100."""
