"""Accuracy of a label, either generated as a word or picked by log-likelihood.

`acc` is the papers' reading: the model has to write the label, and one that writes something else gets
0, however the label words compare. `acc_options` asks which label word is likeliest; it cannot fall far
below chance, so it flatters methods that have forgotten the task.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence

from lorafuse_bench.tasks.docs import Doc, one_line, relation, sentiment, solution


def normalise(text: str) -> str:
    """Lower case, single spaces, no trailing punctuation: `" Positive. "` -> `"positive"`."""
    return one_line(text).lower().rstrip(string.punctuation + " ")


def label_accuracy(prediction: str, label: str) -> float:
    """1.0 if the whole prediction is the label after normalisation."""
    return float(normalise(prediction) == normalise(label))


def process_sentiment(doc: Doc, results: list[str]) -> dict[str, float]:
    """Items of sst2."""
    return _generated(doc, results, sentiment)


def process_relation(doc: Doc, results: list[str]) -> dict[str, float]:
    """Items of mnli."""
    return _generated(doc, results, relation)


def process_solution(doc: Doc, results: list[str]) -> dict[str, float]:
    """Items of piqa."""
    return _generated(doc, results, solution)


def process_options(doc: Doc, results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """Items of the `_options` leaves: the likeliest label word, by its whole log-likelihood in nats."""
    likelihoods = [likelihood for likelihood, _ in results]
    return {"acc_options": float(likelihoods.index(max(likelihoods)) == doc["label"])}


def _generated(doc: Doc, results: list[str], label: Callable[[Doc], str]) -> dict[str, float]:
    value = label_accuracy(results[0], label(doc))
    return {"acc": value, "score": value}
