"""Completion loss whose logits are computed at the targets only."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lorafuse_bench.layers import FusedModule
from lorafuse_bench.training.examples import IGNORED


def completion_loss(model: nn.Module, labels: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
    """`(Σ_n −log p(target_n), n)`: the loss summed over the targets of a batch, and how many there are.

    labels: `(rows, tokens)`, IGNORED where nothing is learnt.
    """
    logits, targets = target_logits(model, labels, **inputs)
    return F.cross_entropy(logits.float(), targets, reduction="sum"), targets.new_tensor(len(targets))


def target_logits(model: nn.Module, labels: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
    """`(n, V)` logits of the positions before the n targets, and the targets `(n,)`.

    Of the hidden states that reach the model's output embedding only those are let through: whatever a model
    does before and after (scaling, soft caps) stays its own. Where that embedding sees something else than
    `(rows, tokens, h)`, or is another expert for each row, all logits are computed and the same ones taken.
    """
    before = F.pad(labels[:, 1:] != IGNORED, (0, 1))
    head = model.get_output_embeddings()  # type: ignore[operator]

    def select(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        fits = bool(args) and args[0].shape[:2] == before.shape
        return (args[0][before][None], *args[1:]) if fits else None

    whole = head is None or isinstance(head, FusedModule)
    hook = None if whole else head.register_forward_pre_hook(select)
    try:
        logits: Tensor = model(**inputs, use_cache=False).logits
    finally:
        if hook is not None:
            hook.remove()
    logits = logits[before] if logits.shape[:2] == before.shape else logits[0]
    return logits, labels[:, 1:][labels[:, 1:] != IGNORED]
