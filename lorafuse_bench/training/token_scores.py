"""Every expert's log-probability of every target token: what ensembles and the loss matrix are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from lorafuse_bench.device import mixed_precision
from lorafuse_bench.files import write_bytes
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion.base import row_updates
from lorafuse_bench.fusion.fitted import LossMatrix
from lorafuse_bench.layers import Update
from lorafuse_bench.planning import Work
from lorafuse_bench.scoring import Scored, Scorer, shares_prefixes
from lorafuse_bench.training.estimate import Estimate, of_reading
from lorafuse_bench.training.examples import IGNORED, Example

ROWS = 64
"""Rows of one forward pass, each under its own expert."""
TOKENS = 16384
"""Tokens of one forward pass at most, padding counted."""


@dataclass(frozen=True)
class TokenScores:
    """`log_probabilities (M, n)` of the n target tokens of a task's rows under each of M members; `counts (rows,)`."""

    log_probabilities: Tensor
    counts: Tensor

    def by_row(self) -> Tensor:
        """`(M, rows)`: nats of each row, its targets' sum."""
        return torch.stack(
            [-part.double().sum(1) for part in self.log_probabilities.split(self.counts.tolist(), dim=1)], 1
        )


def score_rows(
    fused: FusedModel, updates: Mapping[str, Update] | None, examples: Sequence[Example], dtype: torch.dtype
) -> TokenScores:
    """Targets under the model with these updates, one member; None for the updates that are in place."""
    if updates is not None:
        fused.put(updates)
    found = _scored(fused, examples, dtype)
    return TokenScores(torch.cat(found)[None], torch.tensor([len(scores) for scores in found]))


def score_experts(
    fused: FusedModel,
    examples: Sequence[Example],
    dtype: torch.dtype,
    updates: Mapping[str, Update] | None = None,
) -> TokenScores:
    """Targets under each expert alone; one pass holds rows of several experts.

    `updates`: those of `row_updates`, where the caller has them for several tasks.
    """
    fused.put(row_updates(fused.pool, fused) if updates is None else updates)
    experts, rows = len(fused.pool), len(examples)
    choices = [torch.full((fused.base.blocks,), expert) for expert in range(experts) for _ in examples]
    found = _scored(fused, [*examples] * experts, dtype, choices)
    by_expert = [torch.cat(found[i * rows : (i + 1) * rows]) for i in range(experts)]
    return TokenScores(torch.stack(by_expert), torch.tensor([len(scores) for scores in found[:rows]]))


def estimate_of(fused: FusedModel, examples: Sequence[Example]) -> Estimate:
    """What `score_experts` takes, with the updates that are in place."""
    lengths = [len(example["input_ids"]) for example in examples]
    targets = [
        length - example["labels"].count(IGNORED) for example, length in zip(examples, lengths, strict=True)
    ]
    experts, rows = len(fused.pool), _rows(max(lengths))
    once = Work(min(rows, experts * len(examples)), max(lengths), max(targets))
    return of_reading(fused.model, -(-experts * len(examples) // rows), experts * sum(lengths), once)


def kept_scores(path: Path, make: Callable[[], TokenScores]) -> TokenScores:
    """What `path` holds; where it is not there yet it is made, and holds it from then on."""
    if not path.is_file():
        scores = make()
        write_bytes(path, save({"log_probabilities": scores.log_probabilities, "counts": scores.counts}))
    return TokenScores(**load_file(path))


def loss_matrix(experts: Sequence[str], tasks: Sequence[str], scores: Sequence[TokenScores]) -> LossMatrix:
    """The matrix of the tasks' scores, with the standard error of each ratio of nats to tokens over rows."""
    nats, tokens, errors = [], [], []
    for each in scores:
        rows, counts = each.by_row(), each.counts.double()
        loss = rows.sum(1) / counts.sum()
        deviations = (rows - loss[:, None] * counts) / counts.mean()
        sd = deviations.std(1) if len(counts) > 1 else torch.full_like(loss, float("nan"))
        nats.append(rows.sum(1))
        tokens.append(counts.sum())
        errors.append(sd / len(counts) ** 0.5)
    return LossMatrix(
        tuple(experts), tuple(tasks), torch.stack(nats, 1), torch.stack(tokens), torch.stack(errors, 1)
    )


def _scored(
    fused: FusedModel,
    examples: Sequence[Example],
    dtype: torch.dtype,
    choices: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Log-probabilities of each example's targets; what several rows of one choice open with is read once."""
    rows = _rows(max(len(example["input_ids"]) for example in examples))
    scorer = Scorer(fused, rows, shares_prefixes(fused.model))
    with mixed_precision(fused.model.device, dtype):
        found = scorer.score_tokens([_request(example) for example in examples], choices)
    return [torch.tensor(scores) for scores in found]


def _rows(longest: int) -> int:
    """Rows of one forward pass."""
    return max(1, min(ROWS, TOKENS // longest))


def _request(example: Example) -> Scored:
    ids, prompt = tuple(example["input_ids"]), example["labels"].count(IGNORED)
    return Scored(ids[:prompt], ids[prompt:], "")
