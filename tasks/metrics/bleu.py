"""Corpus BLEU on 0..1, kept per item as sufficient statistics.

sacrebleu's BLEU-4 (Post, 2018): 13a tokenisation, mixed case, exponential smoothing, one reference. An
item is ten counts, [sys_len, ref_len, correct_1..4, total_1..4]; corpus BLEU is a function of their sum,
so any resample of items can be scored without tokenising again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from sacrebleu.metrics.bleu import BLEU

from lorafuse_bench.leaderboards.measures import bleu as measure
from lorafuse_bench.leaderboards.statistics import stats
from lorafuse_bench.tasks.docs import Doc, german, one_line, paraphrase

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
    return measure.BLEU.point(items)


def bootstrap_stderr(items: Sequence[Sequence[int]]) -> float | str:
    """Standard deviation of corpus BLEU over resamples of the items; `"N/A"` for fewer than two items."""
    error = stats.statistic(items, measure=measure.BLEU).estimate().se
    return "N/A" if error is None else error


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
