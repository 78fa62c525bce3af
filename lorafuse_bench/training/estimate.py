"""What training takes, told before it begins: time and memory from sizes, an estimate and no measurement."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.memory import free_bytes
from lorafuse_bench.progress import duration

_EFFICIENCY = 0.5
"""Share of a plain product's rate that a whole model reaches."""
_CALLS = 18
"""Small operations for each module and pass, forward and back."""
_MOMENT = 0.1
"""Seconds for which the machine's rate is looked at."""
_KEPT = 3
"""Numbers that the backward pass needs, for each number that a linear map gives out."""
_LESS = (
    "Use a smaller --batch-size or --cutoff, a larger --accumulation, --dtype bfloat16, or another --device."
)


@dataclass(frozen=True)
class Estimate:
    """Seconds; bytes on `device` beside the loaded model: those that are `certain`, and with activations `likely`."""

    device: torch.device
    seconds: float
    certain: int
    likely: int

    def said(self, what: str) -> str:
        """One line; LorafuseError where what is certain exceeds the free memory."""
        free = free_bytes(self.device)
        line = f"{what}: about {duration(self.seconds)} and {_gib(self.likely)} more memory, estimated from sizes"
        if free is None or self.likely <= free:
            return line
        if self.certain > free:
            raise LorafuseError(
                f"{what}: gradients and optimiser alone take {_gib(self.certain)}, and {_gib(free)} are free on"
                f" {self.device}. Train fewer numbers, or use another --device."
            )
        return f"{line}; only {_gib(free)} are free on {self.device}. {_LESS}"


def of_training(
    model: nn.Module, passes: int, tokens: int, at_once: int, trained: Iterable[Tensor], dtype: torch.dtype
) -> Estimate:
    """Of `passes` forward and back over `tokens`, of which `at_once` are in memory; computed in `dtype`.

    A token takes 2 operations for each weight forward and 2 back, and 2 more for each that is trained. AdamW keeps a
    gradient and two moments of what is trained.
    """
    matrices, own = _matrices(model), list(trained)
    numbers, wide = sum(m.numel() for m in matrices), sum(m.shape[0] for m in matrices)
    certain = 3 * sum(p.nbytes for p in own)
    activations = _KEPT * wide * at_once * dtype.itemsize
    operations = tokens * (4 * numbers + 2 * sum(p.numel() for p in own))
    device = next(model.parameters()).device
    return Estimate(
        device, _seconds(operations, passes * _calls(model), device, dtype), certain, certain + activations
    )


def of_reading(model: nn.Module, passes: int, tokens: int, at_once: int) -> Estimate:
    """Of forward `passes` alone over `tokens`, which keep no more than one layer's activations."""
    matrices = _matrices(model)
    device, dtype = matrices[0].device, matrices[0].dtype
    operations = 2 * tokens * sum(m.numel() for m in matrices)
    most = _KEPT * max(m.shape[0] for m in matrices) * at_once * dtype.itemsize
    return Estimate(device, _seconds(operations, passes * _calls(model) / 3, device, dtype), 0, most)


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
