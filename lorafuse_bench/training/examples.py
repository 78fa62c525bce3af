"""Rows as a model learns them: token ids, what of them is the target, and batches of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.tasks.rows import Row


def tokenize(row: Row, tokenizer: PreTrainedTokenizerBase, cutoff: int) -> dict[str, list[int]]:
    """Prompt then target then end of text; only the target is learnt (labels -100 before it).

    The two are tokenised apart, as in evaluation. A target longer than half the cutoff loses its end, a
    prompt that is too long for the rest loses its beginning.
    """
    prompt = tokenizer(row.prompt)["input_ids"]
    target = tokenizer(row.target, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    target = target[: cutoff // 2]
    prompt = prompt[-(cutoff - len(target)) :]
    return {"input_ids": prompt + target, "labels": [-100] * len(prompt) + target}


class PadRight:
    """Collates examples of different lengths into one batch; padding is neither attended to nor learnt.

    Where examples say which task they are of, the batch does.
    """

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        width = max(len(example["input_ids"]) for example in examples)

        def padded(name: str, fill: int) -> Tensor:
            return torch.tensor([e[name] + [fill] * (width - len(e[name])) for e in examples])

        ids, labels = padded("input_ids", self.pad), padded("labels", -100)
        lengths = torch.tensor([[len(example["input_ids"])] for example in examples])
        batch = {"input_ids": ids, "labels": labels, "attention_mask": (torch.arange(width) < lengths).long()}
        if "task" in examples[0]:
            batch["task"] = torch.tensor([example["task"] for example in examples])
        return batch


def load_tokenizer(base: str) -> PreTrainedTokenizerBase:
    """The base's tokenizer; LorafuseError when there is no such model."""
    try:
        return AutoTokenizer.from_pretrained(base)
    except (OSError, ValueError) as error:
        raise LorafuseError(
            f"base model '{base}' cannot be loaded: {str(error).splitlines()[0]}"
            " Name a model folder or a hub id."
        ) from error


def pad_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that fills batches; masked, so any will do."""
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)
