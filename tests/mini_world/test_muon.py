"""Muon in single precision: torch's own up to its rounding, and singular values near one."""

from __future__ import annotations

import pytest
import torch

from lorafuse_bench.mini_world.muon import Muon, orthogonal


def test_steps_are_those_of_torch_up_to_bf16() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 24), (24, 8), (8, 24), (12, 12)]
    start = [torch.randn(shape, generator=generator) for shape in shapes]
    gradients = [[torch.randn(shape, generator=generator) for shape in shapes] for _ in range(3)]
    ended = []
    for build in (
        lambda p: Muon(p, lr=0.05, weight_decay=0.1),
        lambda p: torch.optim.Muon(p, lr=0.05, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    ):
        weights = [torch.nn.Parameter(matrix.clone()) for matrix in start]
        optimizer = build(weights)
        for step in gradients:
            for weight, gradient in zip(weights, step, strict=True):
                weight.grad = gradient.clone()
            optimizer.step()
        ended.append([weight.detach() for weight in weights])
    for ours, theirs, before in zip(*ended, start, strict=True):
        moved = (theirs - before).norm()
        assert (ours - theirs).norm() < 0.02 * moved
        assert moved > 0.1


@pytest.mark.parametrize("shape", [(2, 6, 20), (2, 20, 6)])
def test_singular_values_come_near_one(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonal(matrices))
    assert values.min() > 0.6 and values.max() < 1.3


def test_a_matrix_without_gradient_is_left_alone() -> None:
    weight = torch.nn.Parameter(torch.ones(2, 3))
    Muon([weight], lr=1.0).step()
    assert torch.equal(weight, torch.ones(2, 3))
