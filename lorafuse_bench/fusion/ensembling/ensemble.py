"""Ensemble: every expert reads every row, their next-token distributions are averaged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion.base import Ensembling, Members, Runtime, option
from lorafuse_bench.fusion.papers import TRADEOFFS
from lorafuse_bench.fusion.registry import register


@register
@dataclass(frozen=True)
class Ensemble(Ensembling):
    """The mean of the N experts' next-token distributions.

    `space=prob`: `p = Σ_i w_i softmax(z_i)`; `space=logit`: `p = softmax(Σ_i w_i z_i)`, the normalised
    geometric mean; `w_i = 1/N`, logits `z_i (vocab,)` of the base with expert i alone. Computed in
    log-space: `log p = logsumexp_i(log w_i + log softmax(z_i))`. The experts are rows of one forward
    pass, in step when generating. Source: the trade-offs of ensembling, merging and routing.
    Cost: N forward passes; one LoRA a row. `chunk` and the batch size bound memory.
    """

    space: Literal["prob", "logit"] = option("prob", "what is averaged: probabilities or logits")
    chunk: int | None = option(
        None, "experts in one forward pass of scoring; by default as many as a batch has rows"
    )

    name = "ensemble"
    paper = TRADEOFFS

    def __post_init__(self) -> None:
        if self.chunk is not None and self.chunk < 1:
            raise LorafuseError(f"method 'ensemble': chunk={self.chunk} must be at least 1.")

    def members(self, runtime: Runtime) -> Members:
        experts = len(runtime.pool)
        index = torch.arange(experts)[:, None].expand(-1, runtime.base.blocks)
        return Members(index, torch.full((experts,), 1 / experts))

    def add(self, total: Tensor | None, logits: Tensor, weights: Tensor) -> Tensor:
        if self.space == "prob":
            part = mean_probability(logits, weights)
            return part if total is None else torch.logaddexp(total, part)
        part = torch.tensordot(weights, logits, dims=1)
        return part if total is None else total + part

    def log_probabilities(self, total: Tensor) -> Tensor:
        return total if self.space == "prob" else total.log_softmax(-1)


def mean_probability(logits: Tensor, weights: Tensor) -> Tensor:
    """`log Σ_i w_i softmax(z_i)`, `(..., V)`, of `logits (M, ..., V)` and `weights (M,)`."""
    scale = weights.log().view(-1, *[1] * (logits.ndim - 1))
    return (logits.log_softmax(-1) + scale).logsumexp(0)
