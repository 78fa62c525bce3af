"""Generation under a fused model: batches of prompts, each row under its own choice of experts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, cast

import torch
from lm_eval.models.utils import normalize_gen_kwargs
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteriaList

from lorafuse_bench.errors import LorafuseError, did_you_mean
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion.base import Ensembling
from lorafuse_bench.model_wrappers.blocks import Answers, Blocks
from lorafuse_bench.model_wrappers.stopping import Ending, StopRows
from lorafuse_bench.prefix import Tokens
from lorafuse_bench.scoring import batches, check_numbers


@dataclass(frozen=True)
class Asked:
    """One answer to write: after `prompt`, in at most `length` tokens, under the model's own `settings`."""

    prompt: Tokens
    task: str
    length: int
    ending: Ending
    settings: Mapping[str, Any]

    @property
    def alike(self) -> tuple[str, int, tuple[str, ...]]:
        """What requests of one batch have in common."""
        return json.dumps(self.settings, sort_keys=True, default=str), self.length, self.ending.stops


_REMEDY = "Correct --gen-kwargs, or the task's generation_kwargs."
_ONE_TEXT = {"num_return_sequences": 1, "return_dict_in_generate": False}


def settings_of(given: Mapping[str, Any], longest: int) -> dict[str, Any]:
    """lm-eval's settings of a request with its defaults, `longest` tokens where they say no number.

    LorafuseError for values of `do_sample`, `temperature` or the number of tokens that mean nothing.
    """
    try:
        found: dict[str, Any] = dict(normalize_gen_kwargs(dict(given), longest))
    except (TypeError, ValueError) as error:
        raise LorafuseError(f"generation settings: {error}. {_REMEDY}") from error
    if found["max_gen_toks"] < 1:
        raise LorafuseError(
            f"max_gen_toks={found['max_gen_toks']}: an answer has at least one token. {_REMEDY}"
        )
    if not isinstance(found["do_sample"], bool):
        raise LorafuseError(f"do_sample={found['do_sample']}: say true or false. {_REMEDY}")
    return found


@contextmanager
def _taken(settings: Mapping[str, Any]) -> Iterator[None]:
    """LorafuseError for settings that transformers does not know or take, or that give more than one text."""
    known = vars(GenerationConfig())
    for name, value in settings.items():
        if name not in known:
            raise LorafuseError(f"unknown generation setting '{name}'.{did_you_mean(name, known)} {_REMEDY}")
        if value != _ONE_TEXT.get(name, value):
            raise LorafuseError(f"generation setting {name}={value}: an answer is one text. {_REMEDY}")
    try:
        yield
    except (TypeError, ValueError) as error:
        if settings.keys() <= {"do_sample"}:  # nothing that anybody has set: a bug
            raise
        shown = ", ".join(f"{name}={value}" for name, value in settings.items())
        raise LorafuseError(
            f"generation settings {shown}: {' '.join(str(error).split())} {_REMEDY}"
        ) from error


class Writer:
    """Writes answers in batches of at most `rows` rows; each row ends by itself."""

    def __init__(self, fused: FusedModel, padding: int, rows: int) -> None:
        self.fused = fused
        self.padding = padding
        self.rows = rows

    @torch.no_grad()
    def write(
        self,
        asked: Sequence[Asked],
        choices: Sequence[Tensor] | None = None,
        report: Callable[[int], object] = lambda done: None,
        kept: Answers | None = None,
    ) -> list[str]:
        """The answers, in the order of `asked`; `choices[i] (blocks,)` is the expert per block of request i.

        The longest prompts come first. `report` is told how many answers each batch finished, `kept` which; a batch
        whose answers `kept` holds is not written again.
        """
        kept = Blocks().call("texts", ()) if kept is None else kept
        order = sorted(
            range(len(asked)), key=lambda i: (asked[i].alike, -len(asked[i].prompt), asked[i].prompt)
        )
        for _, alike in groupby(order, key=lambda i: asked[i].alike):
            for batch in batches(list(alike), self.rows):
                if kept.hold(batch):
                    continue
                rows = [asked[i] for i in batch]
                chosen = torch.stack([choices[i] for i in batch]) if choices else None
                written = zip(batch, self._write(rows, chosen), strict=True)
                kept.add({i: asked[i].ending.answer(tokens) for i, tokens in written})
                report(len(batch))
        return [kept[i] for i in range(len(asked))]

    def _write(self, batch: Sequence[Asked], chosen: Tensor | None) -> list[list[int]]:
        """The tokens written after each prompt of one batch."""
        first, model = batch[0], cast(Any, self.fused.model)
        prompts = [torch.tensor(each.prompt, device=model.device) for each in batch]
        context = pad_sequence(prompts, True, self.padding, padding_side="left")
        mask = pad_sequence([torch.ones_like(ids) for ids in prompts], True, 0, padding_side="left")
        generate = partial(
            model.generate,
            max_new_tokens=first.length,
            stopping_criteria=StoppingCriteriaList([StopRows(first.ending, context.shape[1])]),
            eos_token_id=sorted(first.ending.end_tokens),
            pad_token_id=self.padding,
            use_cache=True,
            logits_processor=LogitsProcessorList([FirstStep(context.shape[1])]),
        )
        try:
            method = self.fused.method
            with _taken(first.settings):
                if isinstance(method, Ensembling):
                    settings = {**first.settings, "attention_mask": mask}
                    output = generate_in_step(
                        self.fused, method, generate, context, self.rows, settings, self.padding
                    )
                else:
                    self.fused.selection.set(chosen)
                    output = generate(input_ids=context, attention_mask=mask, **first.settings)
        finally:
            self.fused.selection.set(None)
        return [row.tolist() for row in output[:, context.shape[1] :]]


class FirstStep(LogitsProcessor):
    """Refuses NaN after the prompts of `length` tokens, of which generation would make some token or other."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return check_numbers(scores) if input_ids.shape[1] == self.length else scores


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
    padding: int,
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
            input_ids=ids.repeat_interleave(width, 0),
            **{**settings, "attention_mask": mask.repeat_interleave(width, 0)},
            logits_processor=LogitsProcessorList(
                [FirstStep(ids.shape[1]), InStep(ensemble, members.weights.to(context.device))]
            ),
        )
        written += output[::width]
    return pad_sequence(written, batch_first=True, padding_value=padding)
