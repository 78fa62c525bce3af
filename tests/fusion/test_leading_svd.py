"""The leading singular vectors of a product, against the dense SVD in fp64, whatever its spectrum."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lorafuse_bench.fusion.merging import leading

COUNT = 3


def factors(n: int, m: int, stacked: int = 90, decay: float = 0.0) -> tuple[Tensor, Tensor]:
    """`(n, R)` and `(R, m)` at random, columns of the first `e^-decay` times the ones before them."""
    g = torch.Generator().manual_seed(0)
    columns = torch.exp(-decay * torch.arange(stacked))
    return torch.randn(n, stacked, generator=g) * columns, torch.randn(stacked, m, generator=g)


def twin_values(n: int, m: int) -> tuple[Tensor, Tensor]:
    """The COUNT-th and the next singular value are equal but for 1e-9."""
    g = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(n, 90, generator=g, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(m, 90, generator=g, dtype=torch.float64))[0]
    values = torch.linspace(2, 1, 90, dtype=torch.float64)
    values[COUNT] = values[COUNT - 1] * (1 - 1e-9)
    return left * values, right.T


def one_hot(n: int, m: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues that fp32 has exactly, and twice."""
    return torch.eye(n, 90), torch.eye(90, m) * torch.arange(90, 0, -1)[:, None].div(2, rounding_mode="floor")


CASES = {
    "flat": (factors(100, 120), True),
    "tall": (factors(120, 100), True),
    "decaying": (factors(100, 120, decay=0.1), True),
    "steep": (factors(100, 120, decay=5.0), False),
    "of rank one": (factors(100, 120, stacked=1), False),
    "zero": (tuple(torch.zeros_like(x) for x in factors(100, 120)), False),
    "below fp32's squares": (tuple(1e-12 * x for x in factors(100, 120)), False),
    "above fp32's squares": (tuple(1e10 * x for x in factors(100, 120)), False),
    "two values alike": (twin_values(100, 120), False),
    "exact values": (one_hot(100, 120), False),
    "of bf16": (tuple(x.bfloat16() for x in factors(100, 120)), True),
    "few directions": (factors(20, 30), False),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_dense_svd_to_fp64(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`corrected`: vectors found in fp32 served; else all was done in fp64, and is as good."""
    (left, right), corrected = CASES[name]
    taken = []
    find = leading._corrected

    def seen(*given: object) -> object:
        taken.append(False)
        found = find(*given)  # type: ignore[arg-type]
        taken[-1] = found is not None
        return found

    monkeypatch.setattr(leading, "_corrected", seen)
    u, s, v = leading.leading_svd(left, right, COUNT)
    assert any(taken) == corrected
    dense = left.double() @ right.double()
    whole = torch.linalg.svd(dense, full_matrices=False)
    size = float(whole[1][0]) or 1.0
    torch.testing.assert_close(s / size, whole[1][:COUNT] / size, rtol=0, atol=1e-12)
    if name != "exact values":  # there any vectors of equal values are as good
        best = whole[0][:, :COUNT] * whole[1][:COUNT] @ whole[2][:COUNT]
        within = 1e-6 if name == "two values alike" else 1e-8
        assert torch.linalg.matrix_norm((u * s) @ v.T - best) < within * size
    torch.testing.assert_close(dense.T @ u / size, v * s / size, rtol=0, atol=1e-7)


def test_there_are_no_more_directions_than_rows() -> None:
    """Such as of a gate that has one output."""
    left, right = factors(1, 30)
    u, s, v = leading.leading_svd(left, right, COUNT)
    torch.testing.assert_close((u * s) @ v.T, left.double() @ right.double())
    assert len(s) == 1


def test_a_first_guess_that_is_off_is_corrected() -> None:
    """Of a product rounded to fp16 the vectors are those of the factors all the same."""
    left, right = (x.numpy() for x in factors(100, 120, decay=0.1))
    rough = torch.from_numpy(left @ right).half().float().numpy()
    whole = torch.linalg.svd(torch.from_numpy(left.astype(float) @ right.astype(float)))[0][:, :COUNT].numpy()
    start = leading._Tridiagonal(rough @ rough.T, COUNT).vectors
    found = leading._corrected(left, right, rough, COUNT)
    assert found is not None

    def off(vectors: leading.Array) -> float:
        return float(abs(vectors - whole @ (whole.T @ vectors)).max())

    assert off(found) < 1e-8 < 1e-5 < off(start)
