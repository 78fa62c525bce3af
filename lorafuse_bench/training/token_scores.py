"""Every expert's log-probability of every target token: what ensembles and the loss matrix are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from lorafuse_bench.training.examples import Example, PadRight
from lorafuse_bench.training.loss import target_logits

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


@torch.no_grad()
def score_rows(
    fused: FusedModel,
    updates: Mapping[str, Update] | None,
    examples: Sequence[Example],
    pad: int,
    dtype: torch.dtype,
) -> TokenScores:
    """Targets under the model with these updates, one member; rows that differ in length share few passes.

    None for the updates that are in place.
    """
    if updates is not None:
        fused.put(updates)
    found: list[Tensor] = [torch.empty(0)] * len(examples)
    for batch in _batches([(0, i) for i in range(len(examples))], examples):
        for (_, row), scores in zip(
            batch, _scored(fused, [examples[i] for _, i in batch], pad, dtype), strict=True
        ):
            found[row] = scores
    counts = torch.tensor([len(scores) for scores in found])
    return TokenScores(torch.cat(found)[None], counts)


@torch.no_grad()
def score_experts(
    fused: FusedModel,
    examples: Sequence[Example],
    pad: int,
    dtype: torch.dtype,
    updates: Mapping[str, Update] | None = None,
) -> TokenScores:
    """Targets under each expert alone; one pass holds rows of several experts.

    `updates`: those of `row_updates`, where the caller has them for several tasks.
    """
    experts = len(fused.pool)
    fused.put(row_updates(fused.pool, fused) if updates is None else updates)
    found: list[list[Tensor]] = [[torch.empty(0)] * len(examples) for _ in range(experts)]
    for batch in _batches([(e, i) for i in range(len(examples)) for e in range(experts)], examples):
        column = torch.tensor([expert for expert, _ in batch], device=fused.model.device)
        fused.selection.set(column[:, None].repeat(1, fused.base.blocks))
        scored = _scored(fused, [examples[i] for _, i in batch], pad, dtype)
        for (expert, row), scores in zip(batch, scored, strict=True):
            found[expert][row] = scores
    fused.selection.set(None)
    counts = torch.tensor([len(scores) for scores in found[0]])
    return TokenScores(torch.stack([torch.cat(scores) for scores in found]), counts)


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


def _batches(
    pairs: Sequence[tuple[int, int]], examples: Sequence[Example]
) -> Iterator[list[tuple[int, int]]]:
    """(member, row) pairs by length, longest first, in passes of at most ROWS rows and TOKENS tokens."""
    order = sorted(pairs, key=lambda pair: -len(examples[pair[1]]["input_ids"]))
    start = 0
    while start < len(order):
        longest = len(examples[order[start][1]]["input_ids"])
        size = max(1, min(ROWS, TOKENS // longest))
        yield order[start : start + size]
        start += size


def _scored(fused: FusedModel, examples: Sequence[Example], pad: int, dtype: torch.dtype) -> Sequence[Tensor]:
    """Log-probabilities of each example's targets, on the CPU."""
    device = fused.model.device
    batch = PadRight(pad)([{"input_ids": e["input_ids"], "labels": e["labels"]} for e in examples])
    portion = {name: tensor.to(device) for name, tensor in batch.items()}
    with mixed_precision(device, dtype):
        logits, targets = target_logits(fused.model, **portion)
    chosen = logits.float().log_softmax(-1).gather(-1, targets[:, None])[:, 0].cpu()
    counts = (batch["labels"][:, 1:] >= 0).sum(1).tolist()
    return chosen.split(counts)
