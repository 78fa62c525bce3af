"""What a fused model loses on the rows that a suite evaluates, row by row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from lorafuse_bench.analysis.of_zoo import compute_of
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.layers import Update
from lorafuse_bench.loading import load_tokenizer
from lorafuse_bench.tasks.rows import load_task, rendered
from lorafuse_bench.tasks.suites import task as task_of
from lorafuse_bench.training.examples import Example, tokenize
from lorafuse_bench.training.router_training import length_of
from lorafuse_bench.training.token_scores import score_rows


def evaluated_rows(
    fused: FusedModel, keys: Iterable[str], source: str, samples: int
) -> dict[str, list[Example]]:
    """Task key to its first `samples` evaluated rows, prompt and right answer, cut as in training."""
    tokenizer, cutoff = load_tokenizer(str(fused.zoo.base_folder())), length_of(fused.zoo, fused.model)
    found = {}
    for key in keys:
        task = load_task(task_of(key).task, source)
        rows = rendered(task, task.config.test_split or task.config.validation_split, samples)
        found[key] = tokenize(rows[: len(rows)], tokenizer, cutoff)
    return found


def nats_and_tokens(
    fused: FusedModel, examples: Sequence[Example], updates: Mapping[str, Update] | None = None
) -> Tensor:
    """`(rows, 2)`: nats summed over a row's targets, and how many these are; None is the method in use."""
    scores = score_rows(fused, updates, examples, compute_of(fused).dtype)
    return torch.stack([scores.by_row()[0], scores.counts.double()], 1)


def per_token(table: Tensor) -> float:
    """Nats per token of `(rows, 2)`."""
    nats, tokens = table.sum(0).tolist()
    return float(nats / tokens)
