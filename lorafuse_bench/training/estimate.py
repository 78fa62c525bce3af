"""What training takes, told before it begins: time from sizes, memory as `lorafuse plan` counts it."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.memory import free_bytes
from lorafuse_bench.planning import Work, moments, of_loaded
from lorafuse_bench.progress import duration

_EFFICIENCY = 0.5
"""Share of a plain product's rate that a whole model reaches."""
_CALLS = 18
"""Small operations for each module and pass, forward and back."""
_MOMENT = 0.1
"""Seconds for which the machine's rate is looked at."""
_LESS = (
    "Use a smaller --batch-size or --cutoff, a larger --accumulation, --dtype bfloat16, or another --device."
)


_COUNTED: dict[tuple[Hashable, Work], int | None] = {}
"""What was counted for trainings that are alike: it takes a tenth of a second for each block."""


@dataclass(frozen=True)
class Estimate:
    """Seconds; bytes on `device` beside the loaded model: those that are `certain`, and with activations `likely`.

    `likely` is None for a model whose passes cannot be counted without values.
    """

    device: torch.device
    seconds: float
    certain: int
    likely: int | None

    def said(self, what: str) -> str:
        """One line; LorafuseError where what is certain exceeds the free memory."""
        free, likely = free_bytes(self.device), self.certain if self.likely is None else self.likely
        more = f"{_gib(likely)} more memory" + (" or more" if self.likely is None else "")
        line = f"{what}: about {duration(self.seconds)} and {more}, estimated from sizes"
        if free is None or likely <= free:
            return line
        if self.certain > free:
            raise LorafuseError(
                f"{what}: gradients and optimiser alone take {_gib(self.certain)}, and {_gib(free)} are free on"
                f" {self.device}. Train fewer numbers, or use another --device."
            )
        return f"{line}; only {_gib(free)} are free on {self.device}. {_LESS}"


def of_training(
    network: PreTrainedModel | None,
    passes: int,
    tokens: int,
    work: Work,
    trained: Iterable[Tensor],
    alike: Hashable = None,
) -> Estimate:
    """Of `passes` forward and back, each of `work`, over `tokens` in all; None for a network without a model.

    A token takes 2 operations for each weight forward and 2 back, and 2 more for each that is trained. AdamW keeps a
    gradient and two moments of what is trained. Networks of one `alike` have the same shapes, and memory is counted
    once for all of them.
    """
    own = list(trained)
    matrices = [] if network is None else _matrices(network)
    operations = tokens * (4 * sum(m.numel() for m in matrices) + 2 * sum(p.numel() for p in own))
    calls = 0 if network is None else passes * _calls(network)
    certain = moments(own) + sum(p.nbytes for p in own)
    likely = certain if network is None else _once(network, work, own, alike)
    seconds = _seconds(operations, calls, own[0].device, own[0].dtype if network is None else network.dtype)
    return Estimate(own[0].device, seconds, certain, likely)


def of_reading(model: PreTrainedModel, passes: int, tokens: int, work: Work) -> Estimate:
    """Of `passes` forward alone, each of `work`, over `tokens` in all."""
    operations = 2 * tokens * sum(m.numel() for m in _matrices(model))
    seconds = _seconds(operations, passes * _calls(model) / 3, model.device, model.dtype)
    return Estimate(model.device, seconds, 0, _beside(model, work))


def _once(model: PreTrainedModel, work: Work, trained: Sequence[Tensor], alike: Hashable) -> int | None:
    if alike is None:
        return _beside(model, work, trained)
    if (alike, work) not in _COUNTED:
        _COUNTED[alike, work] = _beside(model, work, trained)
    return _COUNTED[alike, work]


def _beside(model: PreTrainedModel, work: Work, trained: Sequence[Tensor] = ()) -> int | None:
    try:
        return of_loaded(model, work, trained).beside
    except LorafuseError:
        return None


def _calls(model: nn.Module) -> int:
    return _CALLS * sum(1 for _ in model.modules())


def _matrices(model: nn.Module) -> list[nn.Parameter]:
    """The weights that every token is multiplied with."""
    looked_up = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    return [p for p in model.parameters() if p.ndim > 1 and id(p) not in looked_up]


def _seconds(operations: float, calls: float, device: torch.device, dtype: torch.dtype) -> float:
    """At this machine's rate now, other work on it included."""
    side = 512 if device.type == "cpu" else 4096
    product = _timed(torch.ones(side, side, device=device, dtype=dtype)) / (2 * side**3)
    return operations * product / _EFFICIENCY + calls * _timed(torch.ones(1, 1, device=device, dtype=dtype))


def _timed(one: Tensor) -> float:
    """Mean seconds of a product, over a moment."""
    float((one @ one)[0, 0])  # the first one prepares much
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < _MOMENT:
        product = one @ one
        done += 1
    float(product[0, 0])  # reading a number waits for a GPU
    return (time.perf_counter() - start) / done


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
