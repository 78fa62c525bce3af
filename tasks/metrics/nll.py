"""Loss of a given reply, in nats per UTF-8 byte of its text.

    nll_per_byte = mean over replies of -log p(reply | prompt) / bytes(reply)
    byte_perplexity = exp(nll_per_byte)

A task sees only the log-likelihood of a reply, not how many tokens it took, and tokens of different
tokenisers are no common unit; bytes are both exact and comparable. The leading space belongs to the
reply and is counted. Replies weigh the same whatever their length, so that items pair between methods.
Lower is better: a loss never enters a mean of ratios, and these tasks report no `score`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lorafuse_bench.tasks.docs import Doc, dialogue_reply


def nll_per_byte(loglikelihood: float, text: str) -> float:
    """Nats per byte of `text`, given its log-likelihood in nats."""
    return -loglikelihood / len(text.encode())


def exp_mean(items: Sequence[float]) -> float:
    """Perplexity from per-item losses; infinite where a loss is out of a float's range."""
    try:
        return math.exp(sum(items) / len(items))
    except OverflowError:
        return math.inf


def process_reply(doc: Doc, results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """Items of dialogue."""
    value = nll_per_byte(results[0][0], dialogue_reply(doc))
    return {"nll_per_byte": value, "byte_perplexity": value}
