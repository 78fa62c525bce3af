"""Rows as a model learns them: token ids, what of them is the target, and batches of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lorafuse_bench.tasks.rows import Row
from lorafuse_bench.truncation import truncate

IGNORED = -100
"""Label of a position that is not learnt."""

WINDOW = 64
"""Batches whose rows are drawn, tokenised and sorted by length together."""

Example = dict[str, Any]


def tokenize(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, cutoff: int) -> list[Example]:
    """Per row: prompt, target and end of text as `input_ids`; `labels` are IGNORED where the prompt is.

    The two are tokenised apart, as in evaluation. A target longer than half the cutoff loses its end, a
    prompt that is too long for the rest its middle.
    """
    if not rows:
        return []
    prompts = tokenizer([row.prompt for row in rows])["input_ids"]
    targets = tokenizer([row.target for row in rows], add_special_tokens=False)["input_ids"]
    examples = []
    for prompt, ids in zip(prompts, targets, strict=True):
        target = [*ids, tokenizer.eos_token_id][: cutoff // 2]
        kept = truncate(prompt, cutoff - len(target))
        examples.append({"input_ids": kept + target, "labels": [IGNORED] * len(kept) + target})
    return examples


def prompt_of(example: Example) -> list[int]:
    """The token ids before the target."""
    return [
        token
        for token, label in zip(example["input_ids"], example["labels"], strict=True)
        if label == IGNORED
    ]


class Head(Sequence[Row]):
    """The first `count` rows of a sequence, without reading them."""

    def __init__(self, rows: Sequence[Row], count: int) -> None:
        self.rows, self.size = rows, count

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> Any:
        positions = range(self.size)[index]
        return self.rows[positions] if isinstance(positions, int) else [self.rows[i] for i in positions]


def hold_out(rows: Sequence[Row], count: int) -> tuple[Sequence[Row], list[Row]]:
    """The rows to train on, unread, and those held out: the last `count`, at most a fifth of all."""
    kept = len(rows) - min(count, len(rows) // 5)
    return Head(rows, kept), [rows[i] for i in range(kept, len(rows))]


class Batches:
    """The batches of a run over the rows of one or several tasks, each made when it is asked for.

    An epoch is a permutation of all rows, another one each time; its last batch may be smaller. The rows of
    WINDOW batches are tokenised together and cut into batches of like length, in random order. The same seed
    gives the same batches, from whichever one starts, and no more rows are read than are used.
    """

    def __init__(
        self,
        tasks: Sequence[Sequence[Row]],
        tokenizer: PreTrainedTokenizerBase,
        cutoff: int,
        batch_size: int,
        seed: int,
    ) -> None:
        self.tasks, self.tokenizer, self.cutoff = tasks, tokenizer, cutoff
        self.batch_size, self.seed = batch_size, seed
        self.rows = sum(len(rows) for rows in tasks)
        self.per_epoch = -(-self.rows // batch_size)
        self._permutation = lru_cache(1)(self._draw_permutation)
        self._window = lru_cache(1)(self._make_window)

    def __getitem__(self, index: int) -> list[Example]:
        """Batch `index` of the run; every example says its `task`, the position among the tasks."""
        epoch, position = divmod(index, self.per_epoch)
        return self._window(epoch, position // WINDOW)[position % WINDOW]

    def _draw_permutation(self, epoch: int) -> Tensor:
        return torch.randperm(self.rows, generator=self._generator(epoch, 0))

    def _make_window(self, epoch: int, window: int) -> list[list[Example]]:
        size = WINDOW * self.batch_size
        positions = self._permutation(epoch)[window * size : (window + 1) * size]
        examples = sorted(self._examples(positions.tolist()), key=lambda example: -len(example["input_ids"]))
        starts = range(0, len(examples), self.batch_size)
        order = torch.randperm(len(starts), generator=self._generator(epoch, window + 1))
        return [examples[starts[i] : starts[i] + self.batch_size] for i in order.tolist()]

    def _examples(self, positions: Sequence[int]) -> list[Example]:
        drawn: list[tuple[int, Row]] = []
        for position in positions:
            task = 0
            while position >= len(self.tasks[task]):
                position -= len(self.tasks[task])
                task += 1
            drawn.append((task, self.tasks[task][position]))
        examples = tokenize([row for _, row in drawn], self.tokenizer, self.cutoff)
        return [example | {"task": task} for example, (task, _) in zip(examples, drawn, strict=True)]

    def _generator(self, *purpose: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed_of(str(purpose), self.seed))


class PadRight:
    """Collates examples of different lengths into one batch; padding is neither attended to nor learnt.

    Where examples say which task they are of, the batch does.
    """

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, examples: list[Example]) -> dict[str, Tensor]:
        width = max(len(example["input_ids"]) for example in examples)

        def padded(name: str, fill: int) -> Tensor:
            return torch.tensor([e[name] + [fill] * (width - len(e[name])) for e in examples])

        ids, labels = padded("input_ids", self.pad), padded("labels", IGNORED)
        lengths = torch.tensor([[len(example["input_ids"])] for example in examples])
        batch = {"input_ids": ids, "labels": labels, "attention_mask": (torch.arange(width) < lengths).long()}
        if "task" in examples[0]:
            batch["task"] = torch.tensor([example["task"] for example in examples])
        return batch


def seed_of(purpose: str, seed: int) -> int:
    """A seed for one purpose, such as a task's key; the same in every process."""
    return int.from_bytes(hashlib.sha256(f"{purpose} {seed}".encode()).digest()[:4], "big")


def pad_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that fills batches; masked, so any will do."""
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)
