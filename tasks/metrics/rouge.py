"""ROUGE-1, ROUGE-2 and ROUGE-L F-measures on 0..1, averaged over items.

rouge_score's implementation with the Porter stemmer, as ROUGE-1.5.5 is run with `-m` on CNN/DailyMail
(Lin, 2004). Summaries are one line here, so ROUGE-L and ROUGE-Lsum coincide.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from lorafuse_bench.tasks.docs import Doc, summary

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

NAMES = ("rouge1", "rouge2", "rougeL")


@cache
def _scorer() -> RougeScorer:
    from rouge_score.rouge_scorer import (
        RougeScorer,  # with nltk and scipy.stats, which no model needs to answer
    )

    return RougeScorer(NAMES, use_stemmer=True)


def rouge(prediction: str, reference: str) -> dict[str, float]:
    """F-measures of one prediction against one reference."""
    found = _scorer().score(target=reference, prediction=prediction)
    return {name: float(found[name].fmeasure) for name in NAMES}


def process_summary(doc: Doc, results: list[str]) -> dict[str, float]:
    """Items of cnn_dailymail."""
    values = rouge(results[0], summary(doc))
    return {**values, "score": values["rougeL"]}
