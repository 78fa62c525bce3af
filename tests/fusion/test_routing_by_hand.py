"""Routers at one linear map: by hand, signs of the SVD, scaled inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from one_map import MODULE, expert, own, random_experts
from torch import Tensor

from lorafuse_bench.experts import ExpertPool, LoraExpert
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.routing.gates import expert_svd
from lorafuse_bench.layers import Selection

ONE = (
    "arrow:k=1",
    "arrow:k=1+merge=before",
    "spectr:k=1",
    "spectr:k=1+score=subspace",
    "spectr:k=1+merge=two_step",
    "mu",
    "mu:merge=before",
)
PRODUCTS = ("arrow:k=2", "spectr:k=2", "spectr:k=2+score=subspace", "spectr:k=2+merge=two_step", "mu")
FACTORS = ("arrow:k=2+merge=before", "mu:merge=before")
X = torch.randn(2, 6, 12, generator=torch.Generator().manual_seed(3))


def update(spec: str, experts: Sequence[LoraExpert], x: Tensor = X) -> Tensor:
    runtime = SimpleNamespace(pool=ExpertPool(experts), selection=Selection(), blocks=1, artefact=None)
    layer = registry.parse(spec).updates(cast(Any, runtime))[MODULE]
    return layer.add_to(torch.zeros(*x.shape[:-1], 9), x)


def test_hand_computed_two_by_two() -> None:
    """Rank-1 experts with s B A = [[2,0],[0,0]] and [[0,0],[0,3]]; prototypes e1 and e2."""
    one = expert(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0], [0.0]]), 2.0, "one")
    two = expert(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0], [3.0]]), 1.0, "two")
    runtime = SimpleNamespace(pool=ExpertPool([one, two]), selection=Selection(), blocks=1, artefact=None)

    def at(spec: str, *x: float) -> list[float]:
        layer = registry.parse(spec).updates(cast(Any, runtime))[MODULE]
        return cast(
            list[float], layer.add_to(torch.zeros(1, 1, 2), torch.tensor([[x]]).float())[0, 0].tolist()
        )

    assert at("arrow:k=2", 1, 1) == pytest.approx([1, 1.5])  # equal logits: gates 1/2
    assert at("arrow:k=1", 2, 1) == pytest.approx([4, 0])
    e = 2.718281828459045
    assert at("arrow:k=2", 2, 1) == pytest.approx([4 * e / (e + 1), 3 / (e + 1)])
    # SpectR: lengths 2·1.2 < 3·1 pick the second, unscaled lengths 1.2 > 1 the first.
    assert at("spectr:k=1", 1.2, 1) == pytest.approx([0, 3])
    assert at("spectr:k=1+score=subspace", 1.2, 1) == pytest.approx([2.4, 0])
    assert at("spectr:k=2", 1.2, 1) == pytest.approx([1.2, 1.5])
    # Two-step: B* = (e1 + e2)/2, A* x = (2·1.2 + 3)/2.
    assert at("spectr:k=2+merge=two_step", 1.2, 1) == pytest.approx([1.35, 1.35])
    assert at("mu", 1.2, 1) == pytest.approx([1.2, 1.5])


@pytest.mark.parametrize("spec", PRODUCTS + FACTORS)
def test_negated_factors_change_nothing(spec: str) -> None:
    """(A, B) -> (-A, -B) for one expert: the SVD's signs are fixed, so SpectR's two-step does not move."""
    first, *rest = random_experts()
    a, b = first.factors[MODULE]
    flipped = [replace(first, factors={MODULE: (-a, -b)}), *rest]
    same = torch.allclose(update(spec, flipped), update(spec, [first, *rest]), rtol=1e-4, atol=1e-4)
    assert same == (spec not in FACTORS)


def test_svd_signs_are_fixed_and_padding_is_zero() -> None:
    experts = random_experts()
    stack = ExpertPool(experts).modules[MODULE]
    u, s, vt = expert_svd(stack)
    for i, e in enumerate(experts):
        torch.testing.assert_close(u[i] * s[i] @ vt[i], own(e), rtol=1e-5, atol=1e-5)
        rows = vt[i, : e.rank]
        assert (rows.gather(1, rows.abs().argmax(1, keepdim=True)) > 0).all()
        assert not u[i, :, e.rank :].any() and not s[i, e.rank :].any() and not vt[i, e.rank :].any()


@pytest.mark.parametrize("nearness", [1.0, 1e-2, 1e-5, 0.0])
def test_svd_of_an_expert_whose_rows_are_nearly_dependent(nearness: float) -> None:
    """Against the dense SVD: rows of very unequal length, and rows almost or wholly parallel."""
    g = torch.Generator().manual_seed(0)
    a = torch.randn(3, 40, generator=g)
    a[1] = 2 * a[0] + nearness * a[1]
    b = torch.randn(20, 3, generator=g) * torch.tensor([1.0, 1.0, 1e-3])
    stack = ExpertPool([expert(a, b, 1.0, "x"), expert(a.flip(0)[:1], b[:, :1], 1.0, "y")]).modules[MODULE]
    u, s, vt = expert_svd(stack)
    for i in range(2):
        dense = stack.B[i].double() @ stack.A[i].double()
        torch.testing.assert_close(s[i].double(), torch.linalg.svdvals(dense)[:3], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close((u[i] * s[i] @ vt[i]).double(), dense, rtol=0, atol=2e-6 * float(s[i, 0]))
        kept = s[i] > 1e-6 * s[i, 0]
        for basis in (u[i].T[kept], vt[i][kept]):
            torch.testing.assert_close(basis @ basis.T, torch.eye(int(kept.sum())), rtol=0, atol=1e-6)


@pytest.mark.parametrize("spec", ["arrow:k=1", "spectr:k=2"])
def test_scaling_the_input_scales_the_output_where_choices_are_hard(spec: str) -> None:
    """Homogeneous where gates are 0 or 1/k; Arrow's soft gates sharpen (trap 16)."""
    experts = random_experts()
    torch.testing.assert_close(
        update(spec, experts, 3 * X), 3 * update(spec, experts, X), rtol=1e-4, atol=1e-3
    )
    soft = "arrow:k=3"
    assert not torch.allclose(update(soft, experts, 3 * X), 3 * update(soft, experts, X), rtol=1e-2)
