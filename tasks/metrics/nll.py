"""Loss of a given text: in nats per token of the model, or per UTF-8 byte.

    nll = sum over targets of -log p(target, end of text | prompt) / sum of their tokens, the end counted
    nll_mean = mean over targets of the same quotient of each

A model of ours says how many tokens it scored (`Likelihood`); with any other the loss in tokens is refused. Tokens of
two models are no common unit: these losses compare methods on one base.

    nll_per_byte = mean over replies of -log p(reply | prompt) / bytes(reply)
    byte_perplexity = exp(nll_per_byte)

Bytes are exact and comparable between tokenisers. The leading space belongs to the
reply and is counted. Replies weigh the same whatever their length, so that items pair between methods.
Lower is better: a loss never enters a mean of ratios, and these tasks report no `score`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.tasks.docs import Doc, dialogue_reply


class Likelihood(tuple[float, bool]):
    """What lm-eval calls a log-likelihood, `(log p, whether greedy decoding gives it)`, and the tokens it is over."""

    tokens: int

    @classmethod
    def of(cls, value: float, greedy: bool, tokens: int) -> Likelihood:
        made = cls((value, greedy))
        made.tokens = tokens
        return made


def process_target(doc: Doc, results: Sequence[tuple[float, bool]]) -> dict[str, float | list[float]]:
    """Items of a target: `nll` is [nats, tokens], `nll_mean` their quotient, `exact_match` whether it is written."""
    (found,) = results
    if not isinstance(found, Likelihood):
        raise LorafuseError("a loss in tokens needs the model to count them. Use --model lorafuse.")
    return {
        "nll": [-found[0], found.tokens],
        "nll_mean": -found[0] / found.tokens,
        "exact_match": float(found[1]),
    }


def per_token(items: Sequence[Sequence[float]]) -> float:
    """Nats of all targets over their tokens."""
    nats, tokens = (math.fsum(column) for column in zip(*items, strict=True))
    return nats / tokens


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
