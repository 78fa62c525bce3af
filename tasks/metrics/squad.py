"""Exact match and token F1 of extractive answers on 0..1, by the rules of SQuAD v1.1.

Rajpurkar et al., 2016, section 6.1: lower case, no punctuation, no articles, single spaces; the best
value over the reference answers counts.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from lorafuse_bench.tasks.docs import Doc

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalise(text: str) -> str:
    """`"The Cat!"` -> `"cat"`."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1.0 if the prediction equals any reference after normalisation."""
    found = normalise(prediction)
    return float(any(found == normalise(reference) for reference in references))


def f1(prediction: str, references: Sequence[str]) -> float:
    """Best harmonic mean of token precision and recall over the references."""
    return max(_f1(normalise(prediction).split(), normalise(reference).split()) for reference in references)


def _f1(predicted: list[str], expected: list[str]) -> float:
    shared = sum((Counter(predicted) & Counter(expected)).values())
    return 2 * shared / (len(predicted) + len(expected)) if shared else 0.0


def process_answer(doc: Doc, results: list[str]) -> dict[str, float]:
    """Items of squad."""
    references = doc["answers"]["text"]
    value = f1(results[0], references)
    return {"em": exact_match(results[0], references), "f1": value, "score": value}
