"""Costs: what a method stores, builds, computes and takes, against what it declares, as ratios of one run."""

from __future__ import annotations

import time
from collections.abc import Callable
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

ROUNDS = 5


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
    _pass_within(subject, "the largest tensor of a pass", subject.method.costs.memory, _largest)


@check
def operations_are_as_declared(subject: Subject) -> None:
    """A pass takes no more floating point operations, in shares of the base's, than it declares."""
    _pass_within(subject, "the operations of a pass", subject.method.costs.operations, _operations)


@check
def time_is_as_declared(subject: Subject) -> None:
    """A pass takes no more of the processor's time, in shares of the base's beside it, than it declares."""
    _pass_within(subject, "the time of a pass", subject.method.costs.seconds, _seconds)


def _pass_within(subject: Subject, what: str, declared: float, measure: Callable[[ToyModel], float]) -> None:
    require_experts(subject.method)
    with subject.fused() as model, torch.no_grad():
        choose_in_turn(model)
        base = ToyModel(pool_of(toy_experts()), "qwen2", torch.float32)
        rounds = [(measure(model), measure(base)) for _ in range(ROUNDS)]
    ratio = min(own for own, _ in rounds) / min(other for _, other in rounds)
    _within(what, ratio, declared, "the base's")


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
