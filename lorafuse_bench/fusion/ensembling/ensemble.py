"""Ensemble: every expert reads every row, their next-token distributions are averaged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion.base import Ensembling, Members, Need, Runtime, option
from lorafuse_bench.fusion.ensembling.minimax import minimax_weights
from lorafuse_bench.fusion.fitted import Fitted, Fitting, Parameters, Passes
from lorafuse_bench.fusion.papers import TRADEOFFS
from lorafuse_bench.fusion.registry import register


@register
@dataclass(frozen=True)
class Ensemble(Fitted, Ensembling):
    """The mean of the N experts' next-token distributions.

    `space=prob`: `p = Σ_i λ_i softmax(z_i)`; `space=logit`: `p = softmax(Σ_i λ_i z_i)`, the normalised
    geometric mean; logits `z_i (vocab,)` of the base with expert i alone. Computed in log-space:
    `log p = logsumexp_i(log λ_i + log softmax(z_i))`. `weights=uniform`: `λ_i = 1/N`. `weights=sgd`: λ on the
    simplex, softmax of logits that start at 0, by Adam on the cross-entropy of `Σ λ_i p_i` over the rows of all
    tasks. `weights=lp`: `min_λ max_t Σ_i λ_i M_it`, with M the experts' losses on dev rows. Learned weights are of
    the mixture of probabilities, in both spaces. The experts are rows of one forward pass, in step when generating.
    Source: trade-offs, sections 3.2.1 and B.5.
    Cost: N forward passes; one LoRA a row. `chunk` and the batch size bound memory.
    """

    space: Literal["prob", "logit"] = option("prob", "what is averaged: probabilities or logits")
    weights: Literal["uniform", "sgd", "lp"] = option(
        "uniform",
        "1/N, or fitted: by descent on the loss (sgd), or for the least largest loss of a task (lp)",
    )
    chunk: int | None = option(
        None, "experts in one forward pass of scoring; by default as many as a batch has rows"
    )

    name = "ensemble"
    paper = f"{TRADEOFFS}, sections 3.2.1 and B.5"
    at_use: ClassVar[frozenset[str]] = frozenset({"space", "chunk"})

    def __post_init__(self) -> None:
        if self.chunk is not None and self.chunk < 1:
            raise LorafuseError(f"method 'ensemble': chunk={self.chunk} must be at least 1.")

    @property
    def needed(self) -> frozenset[Need]:
        return frozenset() if self.weights == "uniform" else self.needs

    @property
    def learns_from_dev(self) -> str | None:
        return "the linear program is of the losses on dev rows" if self.weights == "lp" else None

    def start(self, runtime: Runtime) -> dict[str, Tensor]:
        """`weights (N,)`, equal."""
        return {"weights": torch.full((len(runtime.pool),), 1 / len(runtime.pool))}

    def budget(self, experts: int) -> Passes | None:
        return {} if self.weights == "sgd" else None

    def fit(self, fitting: Fitting) -> dict[str, Tensor]:
        if self.weights == "uniform":
            raise LorafuseError(
                "method 'ensemble': uniform weights are 1/N, there is nothing to fit. Say weights=sgd or weights=lp."
            )
        if self.weights == "lp":
            return {"weights": minimax_weights(fitting.losses().losses)}
        found = fitting.mix({"logits": torch.zeros(len(fitting.runtime.pool))}, mixture_loss)
        return {"weights": found["logits"].softmax(-1)}

    def members(self, runtime: Runtime) -> Members:
        experts = len(runtime.pool)
        index = torch.arange(experts)[:, None].expand(-1, runtime.base.blocks)
        if self.weights == "uniform":
            return Members(index, self.start(runtime)["weights"])
        weights = runtime.artefact(self).tensors["weights"].cpu()
        used = weights > 0
        return Members(index[used], weights[used])

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


def mixture_loss(parameters: Parameters, scores: Tensor) -> Tensor:
    """`−Σ_n log Σ_i λ_i p_i(target_n)` with `λ = softmax(logits)`, of `scores (N, n)`, the log p_i."""
    return -(scores + parameters["logits"].log_softmax(-1)[:, None]).logsumexp(0).sum()
