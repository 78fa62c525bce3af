"""Numbers: types, extremes, devices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from lorafuse_bench.testing.check import check
from lorafuse_bench.testing.subject import (
    DoesNotApplyError,
    Subject,
    added,
    choose_in_turn,
    distribution_under,
    gap,
    inputs,
    layers,
    prompts,
    require_experts,
    select,
)
from lorafuse_bench.testing.toys import Experts, changed, copies, scaled, toy_experts

EXTREMES = (1e-6, 1e4)


@check
def fuses_in_fp32(subject: Subject) -> None:
    """What it makes of fp32 experts keeps fp32's digits, whatever the base computes in."""
    require_experts(subject.method)
    with subject.fused() as model:
        for name, layer in layers(model).items():
            for key, tensor in [*layer.update.named_parameters(), *layer.update.named_buffers()]:
                for dtype in (torch.bfloat16, torch.float16):
                    assert not _rounded(tensor, dtype), f"{key} at {name} is rounded to {_short(dtype)}"


def _rounded(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether all of many different numbers are among the few that a half type has."""
    if not tensor.is_floating_point() or len(tensor.unique()) < 20:
        return False
    return torch.equal(tensor.to(dtype).to(tensor.dtype), tensor)


def _short(dtype: torch.dtype) -> str:
    return {torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]


@check
def runs_in_bf16(subject: Subject) -> None:
    """On a bf16 base every map adds what it adds in fp32, to bf16's precision."""
    _half(subject, torch.bfloat16)


@check
def runs_in_fp16(subject: Subject) -> None:
    """On an fp16 base every map adds what it adds in fp32, to fp16's precision."""
    _half(subject, torch.float16)


@torch.no_grad()
def _half(subject: Subject, dtype: torch.dtype) -> None:
    short = _short(dtype)
    assert torch.isfinite(subject.distribution(dtype=dtype)).all(), (
        f"{short} gives numbers that are not finite"
    )
    with subject.fused() as model:
        choose_in_turn(model)
        exact = {
            name: (added(layer, tokens=20), layer.base(inputs(layer.base, 3, 20)))
            for name, layer in layers(model).items()
        }
    with subject.fused(dtype=dtype) as model:
        choose_in_turn(model)
        for name, layer in layers(model).items():
            got, (wanted, plain) = added(layer, tokens=20), exact[name]
            assert got.dtype == dtype, f"{name} gives {got.dtype} on a {short} base"
            rounding = 0.1 * (wanted.norm(dim=-1) + plain.norm(dim=-1))
            share = ((got.float() - wanted).norm(dim=-1) < rounding).float().mean().item()
            # Scores from half precision: a near tie may fall to the other side.
            assert share > 0.85, f"at {name} {1 - share:.0%} of the tokens get something else than in fp32"


@check
def extremes_stay_finite(subject: Subject) -> None:
    """Huge, tiny and zero updates, alone and mixed, and copies of one expert give finite numbers."""
    require_experts(subject.method)
    first, second, third = toy_experts()
    tiny, huge = (scaled(toy_experts(), by) for by in EXTREMES)
    zero = changed(second, lambda a, b: (a, torch.zeros_like(b)))
    nothing = changed(second, lambda a, b: (torch.zeros_like(a), torch.zeros_like(b)))
    pools: dict[str, Experts] = {
        "tiny updates": tiny,
        "huge updates": huge,
        "a tiny, a usual and a huge update": (tiny[0], second, huge[2]),
        "a zero update among others": (first, zero, third),
        "an expert of zeros among others": (first, nothing, third),
        "copies of one expert": copies(first),
        "experts of opposite updates": (
            first,
            replace(scaled([first], -1.0)[0], name="mnli", tasks=("mnli",)),
            third,
        ),
    }
    for what, experts in pools.items():
        assert torch.isfinite(subject.distribution(experts)).all(), f"{what} give numbers that are not finite"


@check
def an_accelerator_gives_the_same(subject: Subject) -> None:
    """On an accelerator the distributions are those of the CPU."""
    device = _accelerator()
    if device is None:
        raise DoesNotApplyError("this machine has no accelerator")
    expected = subject.distribution()
    with subject.fused() as model:
        ids, tasks = prompts()
        choice = select(model, ids, tasks)
        cast(Any, model.model).to(device)
        got = distribution_under(model, ids.to(device), None if choice is None else choice.to(device)).cpu()
    assert gap(got, expected) < 0.05, f"{device} differs from the CPU by {gap(got, expected):.2g} nats"


def _accelerator() -> torch.device | None:
    found = torch.accelerator.current_accelerator(check_available=True)
    return None if found is None or found.type == "cpu" else found
