"""The fused linears: uniform, mixed and repeated rows, dtypes, and the base left alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ModuleStack
from lorafuse_bench.layers import (
    BASE,
    FusedModule,
    RowUpdate,
    Selection,
    StaticUpdate,
    linear_shape,
)

N, R, IN, OUT = 3, 4, 10, 7


@pytest.fixture
def stack() -> ModuleStack:
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(N, R, IN, generator=g), torch.randn(N, OUT, R, generator=g)
    return ModuleStack(a, b, torch.ones(N), (R,) * N)


def fused(stack: ModuleStack, rows: list[int] | None) -> FusedModule:
    selection = Selection()
    if rows is not None:
        selection.set(torch.tensor(rows)[:, None])
    return FusedModule(nn.Linear(IN, OUT), RowUpdate(stack, selection, block=0))


@pytest.mark.parametrize("rows", [[0, 2, 1], [1, 1, 1], [BASE, 0, BASE], [BASE, BASE, BASE]])
def test_each_row_gets_its_expert(stack: ModuleStack, rows: list[int]) -> None:
    layer = fused(stack, rows)
    x = torch.randn(3, 5, IN, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y, plain = layer(x), layer.base(x)
    for n, expert in enumerate(rows):
        update = torch.zeros(5, OUT) if expert == BASE else x[n] @ stack.A[expert].T @ stack.B[expert].T
        torch.testing.assert_close(y[n], plain[n] + update, rtol=1e-5, atol=1e-5)


def test_no_selection_is_the_base(stack: ModuleStack) -> None:
    layer = fused(stack, None)
    x = torch.randn(2, 1, IN)
    assert torch.equal(layer(x), layer.base(x))


def test_repeated_rows_follow_their_prompt(stack: ModuleStack) -> None:
    """Beam search runs each row several times in place."""
    layer = fused(stack, [0, 2])
    x = torch.randn(2, 1, IN)
    torch.testing.assert_close(layer(x.repeat_interleave(3, 0)), layer(x).repeat_interleave(3, 0))


def test_blocks_choose_apart(stack: ModuleStack) -> None:
    selection = Selection()
    selection.set(torch.tensor([[0, 1], [0, 2]]))
    first, second = (RowUpdate(stack, selection, block) for block in (0, 1))
    x = torch.randn(2, 1, IN)

    def zero() -> torch.Tensor:
        return torch.zeros(2, 1, OUT)

    torch.testing.assert_close(first.add_to(zero(), x)[1], x[1] @ stack.A[0].T @ stack.B[0].T)
    torch.testing.assert_close(second.add_to(zero(), x)[1], x[1] @ stack.A[2].T @ stack.B[2].T)
    selection.set_block(1, torch.tensor([2, 2]))
    torch.testing.assert_close(second.add_to(zero(), x)[0], x[0] @ stack.A[2].T @ stack.B[2].T)


def test_bf16_row_and_static_agree(stack: ModuleStack) -> None:
    x = torch.randn(2, 3, IN).bfloat16()
    row = fused(stack, [1, 1]).bfloat16()
    static = FusedModule(row.base, StaticUpdate(stack.A[1], stack.B[1]).bfloat16())
    assert row(x).dtype == torch.bfloat16
    torch.testing.assert_close(row(x), static(x))


def test_base_keeps_weight_and_bias_and_size_counts_the_factors(stack: ModuleStack) -> None:
    layer = fused(stack, [0])
    assert layer.weight is layer.base.weight
    assert layer.bias is layer.base.bias
    assert layer.update.size == N * R * (IN + OUT)
    assert StaticUpdate(stack.A[0], stack.B[0]).size == R * (IN + OUT)


def test_shapes_of_linear_maps_and_embeddings() -> None:
    assert linear_shape(nn.Linear(3, 5), "x") == linear_shape(Conv1D(5, 3), "x") == (5, 3)
    assert linear_shape(nn.Embedding(3, 5), "x") == (5, 3)
    with pytest.raises(LorafuseError, match="norm is a LayerNorm, not a linear map"):
        linear_shape(nn.LayerNorm(3), "norm")
