"""Corpus BLEU on 0..1, kept per item as sufficient statistics.

sacrebleu's BLEU-4 (Post, 2018): 13a tokenisation, mixed case, exponential smoothing, one reference. An
item is ten counts, [sys_len, ref_len, correct_1..4, total_1..4]; corpus BLEU is a function of their sum,
so any resample of items can be scored without tokenising again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from sacrebleu.metrics.bleu import BLEU

from lorafuse_bench.tasks.docs import Doc, german, one_line, paraphrase

REPLICATES = 1000
SEED = 0

Statistics = list[int]


@cache
def _scorer() -> BLEU:
    return BLEU()


def statistics(prediction: str, reference: str) -> Statistics:
    """The ten counts of one prediction against one reference."""
    found = _scorer().corpus_score([one_line(prediction)], [[reference]])
    return [int(count) for count in (found.sys_len, found.ref_len, *found.counts, *found.totals)]


def corpus_bleu(items: Sequence[Sequence[int]]) -> float:
    """Corpus BLEU on 0..1 of items given as statistics."""
    return _bleu(np.asarray(items, dtype=np.int64).sum(axis=0))


def bootstrap_stderr(items: Sequence[Sequence[int]]) -> float | str:
    """Standard deviation of corpus BLEU over resamples of the items; `"N/A"` for fewer than two items.

    A resample is a vector of counts over the items, so all of them are one matrix product,
    (replicates, items) @ (items, 10). The generator is local and its seed fixed.
    """
    table = np.asarray(items, dtype=np.int64)
    size = len(table)
    if size < 2:
        return "N/A"
    rng = np.random.default_rng(SEED)
    # 100 replicates at a time bound the memory at 100 * items counts.
    sums = [_resample_counts(rng, size, 100) @ table.astype(float) for _ in range(REPLICATES // 100)]
    return float(np.std([_bleu(row) for row in np.concatenate(sums)], ddof=1))


def _resample_counts(rng: np.random.Generator, size: int, replicates: int) -> np.ndarray:
    """(replicates, size): how often each item is drawn when `size` are drawn with replacement."""
    drawn = rng.integers(size, size=(replicates, size)) + size * np.arange(replicates)[:, None]
    return np.bincount(drawn.ravel(), minlength=replicates * size).reshape(replicates, size).astype(float)


def _bleu(total: np.ndarray) -> float:
    counts = [int(count) for count in total]
    found = BLEU.compute_bleu(counts[2:6], counts[6:10], counts[0], counts[1], smooth_method="exp")
    return float(found.score) / 100


def process_translation(doc: Doc, results: list[str]) -> dict[str, Statistics]:
    """Items of wmt14_en_de."""
    return _items(results[0], german(doc))


def process_paraphrase(doc: Doc, results: list[str]) -> dict[str, Statistics]:
    """Items of paws."""
    return _items(results[0], paraphrase(doc))


def _items(prediction: str, reference: str) -> dict[str, Statistics]:
    # lm-eval knows no standard error for an aggregation of ours and writes "N/A"; a metric called
    # `<name>_stderr` that comes later overwrites that entry with the bootstrap's.
    counts = statistics(prediction, reference)
    return {"bleu": counts, "bleu_stderr": counts, "score": counts, "score_stderr": counts}
