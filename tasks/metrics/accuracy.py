"""Accuracy of a label, either generated as a word or picked by log-likelihood.

`acc` is the papers' reading: the model has to write the label, and one that writes something else gets
0, however the label words compare. `acc_options` asks which label word is likeliest; it cannot fall far
below chance, so it flatters methods that have forgotten the task.
"""

from __future__ import annotations

import string
from collections.abc import Sequence

from lorafuse_bench.tasks.docs import Doc, one_line


def normalise(text: str) -> str:
    """Lower case, single spaces, no trailing punctuation: `" Positive. "` -> `"positive"`."""
    return one_line(text).lower().rstrip(string.punctuation + " ")


def label_accuracy(prediction: str, label: str) -> float:
    """1.0 if the whole prediction is the label after normalisation."""
    return float(normalise(prediction) == normalise(label))


def score_written(words: Sequence[str], right: int, results: Sequence[str]) -> dict[str, float]:
    """Items of the label leaves: whether the model wrote the word at position `right`."""
    value = label_accuracy(results[0], words[right])
    return {"acc": value, "score": value}


def score_options(
    words: Sequence[str], right: int, results: Sequence[tuple[float, bool]]
) -> dict[str, float]:
    """Items of the `_options` leaves: the most likely word, by its total log-likelihood in nats."""
    likelihoods = [likelihood for likelihood, _ in results]
    return {"acc_options": float(likelihoods.index(max(likelihoods)) == right)}


def score_continued(doc: Doc, results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """Items of the text leaves: whether greedy decoding would write the very words that follow."""
    value = float(results[0][1])
    return {"acc": value, "score": value}
