"""Costs: what a method stores, builds, computes and takes, against what it declares, as ratios of one run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from lorafuse_bench.testing.check import check
from lorafuse_bench.testing.subject import (
    Subject,
    ToyModel,
    choose_in_turn,
    prompts,
    require_experts,
)
from lorafuse_bench.testing.toys import pool_of, toy_experts

ROUNDS, MOST_ROUNDS = 5, 20
"""Passes that are timed, and how many where the first ones take longer than is declared."""


@check
def parameters_are_as_declared(subject: Subject) -> None:
    """It stores no more numbers, in shares of the experts' own, than it declares."""
    require_experts(subject.method)
    with subject.fused() as model:
        experts = sum(stack.A.numel() + stack.B.numel() for stack in model.pool.modules.values())
        _within(
            "numbers stored",
            model.extra_parameters / experts,
            subject.method.costs.parameters,
            "the experts'",
        )


@check
def memory_is_as_declared(subject: Subject) -> None:
    """The largest tensor of a pass is no larger, in shares of the base's largest, than it declares."""
    with _beside_the_base(subject) as (model, base):
        ratio = _largest(model) / _largest(base)
    _within("the largest tensor of a pass", ratio, subject.method.costs.memory, "the base's")


@check
def operations_are_as_declared(subject: Subject) -> None:
    """A pass takes no more floating point operations, in shares of the base's, than it declares."""
    with _beside_the_base(subject) as (model, base):
        ratio = _operations(model) / _operations(base)
    _within("the operations of a pass", ratio, subject.method.costs.operations, "the base's")


@check
def time_is_as_declared(subject: Subject) -> None:
    """A pass takes no more of the processor's time, in shares of the base's beside it, than it declares."""
    declared = subject.method.costs.seconds
    with _beside_the_base(subject) as (model, base):
        own, other = _least_seconds(model, base, declared)
    _within("the time of a pass", own / other, declared, "the base's")


def _least_seconds(model: ToyModel, base: ToyModel, declared: float) -> tuple[float, float]:
    """The quickest pass of each: what else runs can only slow one, so a ratio too large is measured for longer."""
    own = other = float("inf")
    for passes in range(1, MOST_ROUNDS + 1):
        own, other = min(own, _seconds(model)), min(other, _seconds(base))
        if passes >= ROUNDS and own <= declared * other:
            break
    return own, other


@contextmanager
def _beside_the_base(subject: Subject) -> Iterator[tuple[ToyModel, ToyModel]]:
    """The method at work, row i under expert i, and the base alone."""
    require_experts(subject.method)
    with subject.fused() as model, torch.no_grad():
        choose_in_turn(model)
        yield model, ToyModel(pool_of(toy_experts()), "qwen2", torch.float32)


def _within(what: str, ratio: float, declared: float, unit: str) -> None:
    assert ratio <= declared, f"{what}: {ratio:.2f} times {unit}, and it declares {declared:g} (costs)"


def _run(model: ToyModel) -> None:
    model.model(input_ids=prompts(tokens=32)[0])


class _Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that an operation makes."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(each, Tensor) and not each._is_view():
                self.numbers = max(self.numbers, each.numel())
        return made


def _largest(model: ToyModel) -> float:
    with _Largest() as noted:
        _run(model)
    return noted.numbers


def _operations(model: ToyModel) -> float:
    with FlopCounterMode(display=False) as counted:
        _run(model)
    return counted.get_total_flops()


def _seconds(model: ToyModel) -> float:
    start = time.process_time()  # the wall's hangs on what else runs
    _run(model)
    return time.process_time() - start
