"""Greedy generation by an ensemble: its members write in step, each on a row of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import LogitsProcessor, LogitsProcessorList

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion.base import Ensembling


class InStep(LogitsProcessor):
    """Gives the M neighbouring rows of a prompt the ensemble's distribution, so that all pick one token."""

    def __init__(self, ensemble: Ensembling, weights: Tensor) -> None:
        self.ensemble = ensemble
        self.weights = weights

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        members = len(self.weights)
        logits = scores.float().unflatten(0, (-1, members)).transpose(0, 1)
        total = self.ensemble.add(None, logits, self.weights)
        return self.ensemble.log_probabilities(total).repeat_interleave(members, 0)


def generate_in_step(
    fused: FusedModel,
    ensemble: Ensembling,
    generate: Callable[..., Tensor],
    context: Tensor,
    rows: int,
    settings: Mapping[str, Any],
) -> Tensor:
    """`generate` for an ensemble: token ids `(prompts, length)` after `context (prompts, tokens)`.

    The prompts come in portions whose members make at most `rows` rows, or one prompt at a time.
    LorafuseError for sampling and beams: their members would part ways.
    """
    if settings.get("do_sample") or settings.get("num_beams", 1) != 1:
        raise LorafuseError(
            f"method '{ensemble.name}' generates greedily only. Set do_sample=false and num_beams=1."
        )
    members = ensemble.members(fused)
    width = len(members.weights)
    size = max(1, rows // width)
    masks = settings["attention_mask"].split(size)
    written: list[Tensor] = []
    for ids, mask in zip(context.split(size), masks, strict=True):
        fused.selection.set(members.index.repeat(len(ids), 1).to(context.device))
        output = generate(
            context=ids.repeat_interleave(width, 0),
            **{**settings, "attention_mask": mask.repeat_interleave(width, 0)},
            logits_processor=LogitsProcessorList([InStep(ensemble, members.weights.to(context.device))]),
        )
        written += output[::width]
    padding = fused.model.generation_config.pad_token_id
    return pad_sequence(written, batch_first=True, padding_value=0 if padding is None else padding)
