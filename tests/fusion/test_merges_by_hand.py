"""Merges by hand: small cases, exact sums, the best truncated SVD, options out of range."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from one_map import delta, expert, own, random_experts
from typer.testing import CliRunner

from lorafuse_bench import cli
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.merging.svd import truncated_svd


def test_hand_computed_two_by_two() -> None:
    """Two rank-1 experts, scaling 2 and 1: every formula by hand."""
    one = expert(
        torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0], [1.0]]), 2.0, "one"
    )  # s B A = [[2,0],[2,0]]
    two = expert(
        torch.tensor([[0.0, 1.0]]), torch.tensor([[3.0], [0.0]]), 1.0, "two"
    )  # s B A = [[0,3],[0,0]]
    torch.testing.assert_close(delta("concat", [one, two]), torch.tensor([[2.0, 3.0], [2.0, 0.0]]))
    torch.testing.assert_close(
        delta("concat:scaling=false", [one, two]), torch.tensor([[1.0, 3.0], [1.0, 0.0]])
    )
    # A = [1,1]; B = 2*[1,1] + [3,0] = [5,2]
    torch.testing.assert_close(delta("weight_sum", [one, two]), torch.tensor([[5.0, 5.0], [2.0, 2.0]]))
    torch.testing.assert_close(
        delta("weight_sum:average", [one, two]), torch.tensor([[1.25, 1.25], [0.5, 0.5]])
    )
    # A = [2,-1]; B = 2*2*[1,1] - [3,0] = [1,4]
    torch.testing.assert_close(
        delta("weight_sum:weights=2/-1", [one, two]), torch.tensor([[2.0, -1.0], [8.0, -4.0]])
    )
    # The mean [[1,1.5],[1,0]] has rank 2: kept whole at rank 2, its best rank-1 part at rank 1.
    mean = torch.tensor([[1.0, 1.5], [1.0, 0.0]])
    torch.testing.assert_close(delta("svd:rank=2", [one, two]), mean)
    largest = torch.linalg.matrix_norm(mean, 2)
    torch.testing.assert_close(torch.linalg.matrix_norm(delta("svd:rank=1", [one, two])), largest)


def test_declared_laws_are_shown() -> None:
    shown = CliRunner().invoke(cli.app, ["methods", "ties"]).output
    assert "Does not hold: one expert is itself, as it is trimmed" in shown
    assert "Does not hold" not in CliRunner().invoke(cli.app, ["methods", "svd"]).output


@pytest.mark.parametrize("spec", ["concat", "svd:rank=4", "weight_sum:weights=0.5/0.5"])
def test_the_same_adapter_twice(spec: str) -> None:
    """Trap 2: halves of one adapter make that adapter; concat's weights are 1, so it makes twice of it."""
    e = random_experts(1)[0]
    twice = [e, replace(e, name="copy")]
    factor = 2 if spec == "concat" else 1
    torch.testing.assert_close(delta(spec, twice), factor * own(e))


def test_concat_is_the_exact_sum_with_unequal_ranks_and_scalings() -> None:
    """Trap 3: no cross terms B_i A_j."""
    experts = random_experts()
    torch.testing.assert_close(delta("concat", experts), sum(own(e) for e in experts))


@pytest.mark.parametrize(("out", "into", "stacked"), [(40, 30, 12), (6, 30, 12), (40, 5, 12), (40, 30, 300)])
def test_truncated_svd_is_that_of_the_dense_product(out: int, into: int, stacked: int) -> None:
    """It is the dense product's truncated SVD in fp64, also where the stack is wider than the matrix."""
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(stacked, into, generator=g), torch.randn(out, stacked, generator=g)
    rank = 4
    right, left = truncated_svd(a, b, rank)
    u, s, vt = torch.linalg.svd(b.double() @ a.double(), full_matrices=False)
    best = u[:, :rank] * s[:rank] @ vt[:rank]
    assert torch.linalg.matrix_norm(left.double() @ right.double() - best) < 1e-6 * s[0]
    torch.testing.assert_close(right @ right.T, torch.eye(rank), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("svd:rank=0", "at least 1"),
        ("svd:rank=99", "exceeds 9"),
        ("weight_sum:weights=1/2", "must be 3 numbers"),
        ("weight_sum:weights=1/x/2", "must be 3 numbers"),
        ("weight_sum:average+weights=1/1/1", "exclude each other"),
    ],
)
def test_options_out_of_range(spec: str, message: str) -> None:
    with pytest.raises(LorafuseError, match=message):
        registry.parse(spec).check(ExpertPool(random_experts()))
