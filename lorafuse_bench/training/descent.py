"""What a fit descends on: the loss of the fused model, its distance to an ensemble, or a mixture of cached scores."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from lorafuse_bench.device import mixed_precision
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion.base import row_updates
from lorafuse_bench.fusion.fitted import MakeUpdates, Parameters
from lorafuse_bench.layers import Update
from lorafuse_bench.training.examples import IGNORED, Example, PadRight
from lorafuse_bench.training.loop import Trainable
from lorafuse_bench.training.loss import completion_loss, target_logits
from lorafuse_bench.training.token_scores import ROWS, TokenScores


class Objective(Trainable):
    """Parameters by name, and a loss of a batch under them; `forward` gives what `training/loop.py` asks for."""

    def __init__(self, start: Parameters, device: torch.device) -> None:
        super().__init__()
        self.names = tuple(start)
        self.values = nn.ParameterList(nn.Parameter(value.to(device, copy=True)) for value in start.values())

    @property
    def named(self) -> dict[str, Tensor]:
        """The parameters under the names that the method gave them."""
        return dict(zip(self.names, self.values, strict=True))

    @abstractmethod
    def summed(self, **batch: Tensor) -> tuple[Tensor, Tensor]:
        """The loss summed over a batch's targets, and how many these are."""

    def forward(self, num_items_in_batch: int | None = None, **batch: Tensor) -> dict[str, Tensor]:
        """The share of a portion in the mean over its batch's targets."""
        loss, own = self.summed(**batch)
        return {"loss": loss / (own if num_items_in_batch is None else num_items_in_batch)}


class LanguageLoss(Objective):
    """Cross-entropy of the target tokens under the updates that the parameters make."""

    def __init__(self, fused: FusedModel, start: Parameters, updates: MakeUpdates) -> None:
        super().__init__(start, fused.model.device)
        self.fused, self.updates = fused, updates

    def network(self) -> PreTrainedModel:
        self.fused.put(self.updates(self.named))
        return self.fused.model

    def summed(self, **batch: Tensor) -> tuple[Tensor, Tensor]:
        self.fused.put(self.updates(self.named))
        return completion_loss(self.fused.model, **_inputs(batch))


class Distance(LanguageLoss):
    """`KL(teacher ‖ student)` at temperature 1 on target positions; the teacher mixes the experts' distributions."""

    def __init__(self, fused: FusedModel, start: Parameters, updates: MakeUpdates, weights: Tensor) -> None:
        super().__init__(fused, start, updates)
        self.weights = weights.to(fused.model.device)
        self.teacher: Mapping[str, Update] = row_updates(fused.pool, fused)

    def summed(self, **batch: Tensor) -> tuple[Tensor, Tensor]:
        inputs = _inputs(batch)
        with torch.no_grad():
            teacher = self._teacher(inputs)
        self.fused.put(self.updates(self.named))
        logits, targets = target_logits(self.fused.model, **inputs)
        student = logits.float().log_softmax(-1)
        loss = F.kl_div(student, teacher, reduction="sum", log_target=True)
        return loss, targets.new_tensor(len(targets))

    def _teacher(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """`(n, V)`: the logarithm of the mixture, one expert after the other."""
        self.fused.put(self.teacher)
        total: Tensor | None = None
        for expert, weight in enumerate(self.weights):
            if weight == 0:
                continue
            rows = len(inputs["input_ids"])
            index = torch.full((rows, self.fused.base.blocks), expert, device=self.fused.model.device)
            self.fused.selection.set(index)
            logits, _ = target_logits(self.fused.model, **inputs)
            part = logits.float().log_softmax(-1) + weight.log()
            total = part if total is None else torch.logaddexp(total, part)
        self.fused.selection.set(None)
        assert total is not None
        return total


class Entropy(LanguageLoss):
    """Entropy of what follows each prompt, the first answer token alone: what the answers are is not seen."""

    def summed(self, **batch: Tensor) -> tuple[Tensor, Tensor]:
        self.fused.put(self.updates(self.named))
        return entropy(self.fused.model, **_inputs(batch))


def entropy(model: nn.Module, labels: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
    """`(Σ_n H(p(· | prompt_n)), n)` in nats, over the rows of a batch."""
    answers = labels != IGNORED
    first = answers & (answers.cumsum(1) == 1)
    logits, targets = target_logits(model, labels.masked_fill(~first, IGNORED), **inputs)
    scores = logits.float().log_softmax(-1)
    return -(scores.exp() * scores).sum(), targets.new_tensor(len(targets))


@torch.no_grad()
def mean_entropy(fused: FusedModel, examples: Sequence[Example], pad: int, dtype: torch.dtype) -> float:
    """Nats per row, under the updates in place."""
    total = 0.0
    for start in range(0, len(examples), ROWS):
        batch = PadRight(pad)([_plain(example) for example in examples[start : start + ROWS]])
        moved = {name: tensor.to(fused.model.device) for name, tensor in batch.items()}
        with mixed_precision(fused.model.device, dtype):
            total += float(entropy(fused.model, **moved)[0])
    return total / len(examples)


def _plain(example: Example) -> Example:
    return {key: example[key] for key in ("input_ids", "labels")}


class Mixture(Objective):
    """A loss of the experts' cached log-probabilities."""

    def __init__(
        self, start: Parameters, loss: Callable[[Parameters, Tensor], Tensor], device: torch.device
    ) -> None:
        super().__init__(start, device)
        self.of = loss

    def network(self) -> None:
        """None: scores are there already."""

    def summed(self, **batch: Tensor) -> tuple[Tensor, Tensor]:
        scores = batch["scores"]
        return self.of(self.named, scores), scores.new_tensor(scores.shape[1])


class CachedBatches:
    """Rows' scores in batches: an epoch is a permutation of all rows, another one each time."""

    def __init__(self, scores: Sequence[TokenScores], batch_size: int, seed: int) -> None:
        self.rows = [
            part for each in scores for part in each.log_probabilities.split(each.counts.tolist(), 1)
        ]
        self.batch_size, self.seed = batch_size, seed
        self.per_epoch = -(-len(self.rows) // batch_size)

    def __getitem__(self, index: int) -> list[Example]:
        epoch, position = divmod(index, self.per_epoch)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.rows), generator=generator)
        chosen = order[position * self.batch_size : (position + 1) * self.batch_size]
        return [self._example(self.rows[i]) for i in chosen.tolist()]

    def _example(self, scores: Tensor) -> Example:
        """With labels that the loop counts targets by."""
        labels = [IGNORED] + [0] * scores.shape[1]
        return {"input_ids": labels, "labels": labels, "scores": scores}


def collate_scores(examples: list[Example]) -> dict[str, Tensor]:
    """One batch of the examples of `CachedBatches`."""
    return {"scores": torch.cat([example["scores"] for example in examples], 1)}


def _inputs(batch: Mapping[str, Any]) -> dict[str, Tensor]:
    return {key: batch[key] for key in ("labels", "input_ids", "attention_mask")}
