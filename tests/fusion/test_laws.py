"""Laws of the merges: every law that a method does not declare broken holds, and the declared ones do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from typer.testing import CliRunner

from lorafuse_bench import cli
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool, LoraExpert
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.base import FusionMethod, Law, Merge
from lorafuse_bench.fusion.merging.svd import truncated_svd

MERGES = tuple(
    name
    for name, cls in registry.methods().items()
    if issubclass(cls, Merge) and cls.__module__.startswith("lorafuse_bench.")
)
VARIANTS = (
    "concat:scaling=false",
    "weight_sum:average",
    "merge_uniform:space=full",
    "mu:merge=before",
    "svd:rank=2",
    "ties:density=1",
    "ties:space=factors",
    "ties:space=factors+density=1",
    "dare:density=1",
    "dare:combine=sum",
    "dare:space=factors",
    "dare_ties:density=1",
    "dare_ties:space=factors",
    "knots:density=1",
    "knots:trim=v",
    "knots:merge=linear",
)
MODULE = "model.layers.0.self_attn.q_proj"


def expert(a: Tensor, b: Tensor, scaling: float = 1.0, name: str = "a") -> LoraExpert:
    return LoraExpert(
        name=name,
        task=name,
        path=Path(name),
        sha256="0",
        base_sha256=None,
        rank=a.shape[0],
        alpha=scaling * a.shape[0],
        factors={MODULE: (a, b)},
        scaling={MODULE: scaling},
    )


def random_experts(n: int = 3, rank: int = 4, seed: int = 0) -> list[LoraExpert]:
    g = torch.Generator().manual_seed(seed)
    return [
        expert(
            torch.randn(rank + i, 12, generator=g), torch.randn(9, rank + i, generator=g), 0.5 + i, f"e{i}"
        )
        for i in range(n)
    ]


def fused(method: FusionMethod, experts: Sequence[LoraExpert]) -> Tensor:
    assert isinstance(method, Merge)
    adapter = method.fuse(ExpertPool(experts))
    if adapter.dense:
        return adapter.dense[MODULE]
    a, b = adapter.factors[MODULE]
    return b @ a


def delta(spec: str, experts: Sequence[LoraExpert]) -> Tensor:
    return fused(registry.parse(spec), experts)


def own(e: LoraExpert) -> Tensor:
    a, b = e.factors[MODULE]
    return e.scaling[MODULE] * b @ a


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


def distance(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm().clamp(min=1))


def one_expert(method: FusionMethod) -> float:
    (e,) = random_experts(1)
    return distance(fused(method, [e]), own(e))


def zero_updates(method: FusionMethod) -> float:
    zero = [
        replace(e, factors={MODULE: (e.factors[MODULE][0], torch.zeros(9, e.rank))}) for e in random_experts()
    ]
    return distance(fused(method, zero), torch.zeros(9, 12))


def gauge(method: FusionMethod) -> float:
    """The function of each expert is the same, so the merge must be."""
    g = torch.Generator().manual_seed(1)
    turned = []
    for e in random_experts():
        a, b = e.factors[MODULE]
        r = torch.randn(e.rank, e.rank, generator=g, dtype=torch.float64)
        factors = ((r @ a.double()).float(), (b.double() @ r.inverse()).float())
        turned.append(replace(e, factors={MODULE: factors}))
    return distance(fused(method, turned), fused(method, random_experts()))


def order(method: FusionMethod) -> float:
    return distance(fused(method, random_experts()[::-1]), fused(method, random_experts()))


def unequal_ranks(method: FusionMethod) -> float:
    """Rank components that are zero change nothing, so unequal ranks are those of the padded experts."""
    padded = []
    for e in random_experts():
        a, b = e.factors[MODULE]
        factors = (F.pad(a, (0, 0, 0, 6 - e.rank)), F.pad(b, (0, 6 - e.rank)))
        padded.append(replace(e, factors={MODULE: factors}))
    return distance(fused(method, random_experts()), fused(method, padded))


def determinism(method: FusionMethod) -> float:
    """The same bytes again, whatever the global generator's state, which is not touched."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = fused(method, random_experts())
        torch.manual_seed(2)
        state = torch.get_rng_state()
        second = fused(method, random_experts())
        same = torch.equal(first, second) and torch.equal(state, torch.get_rng_state())
    return 0.0 if same else 1.0


def inputs_unchanged(method: FusionMethod) -> float:
    assert isinstance(method, Merge)
    experts = random_experts()
    pool = ExpertPool(experts)
    tensors = [t for e in experts for t in e.factors[MODULE]]
    tensors += [t for s in pool.modules.values() for t in (s.A, s.B, s.scaling)]
    before = [t.clone() for t in tensors]
    method.fuse(pool)
    return 0.0 if all(map(torch.equal, before, tensors)) else 1.0


LAWS: dict[Law, Callable[[FusionMethod], float]] = {
    "one expert is itself": one_expert,
    "zero updates give the base": zero_updates,
    "gauge (A, B) -> (RA, BR⁻¹)": gauge,
    "order of the experts": order,
    "unequal ranks": unequal_ranks,
    "determinism": determinism,
    "inputs unchanged": inputs_unchanged,
}


@pytest.mark.parametrize("law", get_args(Law))
@pytest.mark.parametrize("spec", MERGES + VARIANTS)
def test_law(spec: str, law: Law) -> None:
    method = registry.parse(spec)
    violation = LAWS[law](method)
    if law in method.laws_broken:
        assert violation > 1e-2, f"{spec} declares '{law}' broken, but it holds"
    else:
        assert violation < 1e-4


def test_declared_laws_are_shown() -> None:
    shown = CliRunner().invoke(cli.app, ["methods", "ties"]).output
    assert "Does not hold: one expert is itself, as it is trimmed" in shown
    assert "Does not hold" not in CliRunner().invoke(cli.app, ["methods", "concat"]).output


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


@pytest.mark.parametrize(("out", "into", "stacked"), [(40, 30, 12), (6, 30, 12), (40, 5, 12)])
def test_truncated_svd_is_optimal(out: int, into: int, stacked: int) -> None:
    """Singular values equal those of the dense product, also where the stack is wider than the matrix."""
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(stacked, into, generator=g), torch.randn(out, stacked, generator=g)
    rank = 4
    right, left = truncated_svd(a, b, rank)
    dense = torch.linalg.svdvals(b.double() @ a.double())
    torch.testing.assert_close(
        torch.linalg.svdvals((left @ right).double())[:rank], dense[:rank], rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(right @ right.T, torch.eye(rank), rtol=0, atol=1e-5)
    residual = torch.linalg.matrix_norm(b.double() @ a.double() - (left @ right).double())
    torch.testing.assert_close(residual, dense[rank:].norm(), rtol=1e-5, atol=1e-5)


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
