"""The methods since the papers against dense fp64 references: whole matrices, full SVDs, one entry rule at a time."""

from __future__ import annotations

import math

import pytest
import torch
from one_map import MODULE, delta, own, random_experts
from peft.utils.merge_utils import magnitude_prune
from torch import Tensor

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.merging.della import Della
from lorafuse_bench.fusion.merging.spectra import nearest_orthogonal, product_svd

N = 3


def dense() -> list[Tensor]:
    """The experts' updates (9, 12), of ranks 4, 5, 6, in fp64."""
    return [own(e).double() for e in random_experts(N)]


def close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-4)


def procrustes(x: Tensor) -> Tensor:
    """`x (xᵀ x)^(-1/2)`: another way to the nearest matrix with orthonormal columns."""
    values, vectors = torch.linalg.eigh(x.T @ x)
    inverse = torch.where(values > 1e-9 * values.max(), values.clamp(min=1e-300) ** -0.5, 0)
    return x @ (vectors * inverse) @ vectors.T


def test_the_nearest_orthogonal_matrix() -> None:
    x = torch.randn(9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    q = nearest_orthogonal(x)
    close(q.T @ q, torch.eye(5, dtype=torch.float64))
    close(q, procrustes(x))
    twice = torch.cat([x, x], 1)
    close(nearest_orthogonal(twice), torch.cat([q, q], 1) / math.sqrt(2))


def test_the_svd_of_a_product() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(*size, dtype=torch.float64, generator=g) for size in ((4, 12), (9, 4)))
    u, s, vt = product_svd(torch.cat([a, a]), torch.cat([b, b], 1))  # rank 4 of 8
    assert len(s) == 4
    close(u * s @ vt, 2 * b @ a)
    close(s, torch.linalg.svdvals(2 * b @ a)[:4])


@pytest.mark.parametrize(("spec", "k"), [("tsv", 3), ("tsv:rank=2+scale=0.5", 2)])
def test_tsv(spec: str, k: int) -> None:
    """min(9, 12) / 3 triplets of each."""
    triplets = [torch.linalg.svd(d, full_matrices=False) for d in dense()]
    u = torch.cat([u[:, :k] for u, _, _ in triplets], 1)
    s = torch.cat([s[:k] for _, s, _ in triplets])
    v = torch.cat([vt[:k].T for _, _, vt in triplets], 1)
    close(
        delta(spec, random_experts(N)), (0.5 if "scale" in spec else 1) * procrustes(u) * s @ procrustes(v).T
    )


@pytest.mark.parametrize("scale", [1, 0.3])
def test_iso_c(scale: float) -> None:
    u, s, vt = torch.linalg.svd(sum(dense()), full_matrices=False)  # type: ignore[call-overload]
    close(delta(f"iso_c:scale={scale}", random_experts(N)), scale * s.mean() * u @ vt)


@pytest.mark.parametrize("common", [1, 0.8, 0.3, 0])
def test_iso_cts(common: float) -> None:
    total = sum(dense())
    assert isinstance(total, Tensor)
    u, s, vt = torch.linalg.svd(total, full_matrices=False)
    k, own_directions = {1: (9, 0), 0.8: (6, 1), 0.3: (3, 2), 0: (0, 3)}[common]  # of 9
    lefts, values, rights = [u[:, :k]], [s[:k]], [vt[:k].T]
    for d in dense():
        u_i, s_i, vt_i = torch.linalg.svd(d - u[:, :k] @ u[:, :k].T @ d, full_matrices=False)
        lefts.append(u_i[:, :own_directions])
        values.append(s_i[:own_directions])
        rights.append(vt_i[:own_directions].T)
    expected = torch.cat(values).mean() * procrustes(torch.cat(lefts, 1)) @ procrustes(torch.cat(rights, 1)).T
    close(delta(f"iso_cts:common={common}", random_experts(N)), expected)
    if common == 1:
        close(delta("iso_c", random_experts(N)), expected)


def trimmed(x: Tensor, density: float) -> Tensor:
    """Entries that fewer than `⌈density · n⌉` others exceed in magnitude."""
    kept = math.ceil(round(density * x.numel(), 6))
    size = x.abs().flatten()
    return x * ((size[None] > size[:, None]).sum(1) < kept).view_as(x)


def elected(updates: list[Tensor], weights: list[float]) -> Tensor:
    """TIES' disjoint mean, one entry after the other."""
    result = torch.zeros_like(updates[0])
    for place in torch.cartesian_prod(*map(torch.arange, result.shape)).tolist():
        at = tuple(place)
        votes = [w * float(u[at]) for u, w in zip(updates, weights, strict=True)]
        sign = math.copysign(1, sum(votes))
        agreeing = [(v, w) for v, w in zip(votes, weights, strict=True) if v * sign > 0]
        if agreeing:
            result[at] = sum(v for v, _ in agreeing) / sum(abs(w) for _, w in agreeing)
    return result


@pytest.mark.parametrize("density", [0.2, 0.7, 1])
def test_core_space(density: float) -> None:
    experts = random_experts(N)
    lefts = torch.cat([e.scaling[MODULE] * e.factors[MODULE][1].double() for e in experts], 1)
    rights = torch.cat([e.factors[MODULE][0].double() for e in experts])
    u = torch.linalg.svd(lefts, full_matrices=False)[0]
    vt = torch.linalg.svd(rights, full_matrices=False)[2]
    cores = [trimmed(u.T @ d @ vt.T, density) for d in dense()]
    close(delta(f"core_space:density={density}", experts), u @ elected(cores, [1.0] * N) @ vt)


def test_core_space_adds_without_loss() -> None:
    expected = sum(dense()) / N
    assert isinstance(expected, Tensor)
    close(delta("core_space:merge=linear", random_experts(N)), expected)


@pytest.mark.parametrize("density", [0.2, 1])
def test_magnitude_prune_is_pefts(density: float) -> None:
    weights = [0.5, -0.3, 2.0]
    got = delta(f"magnitude_prune:density={density}+weights=0.5/-0.3/2.0", random_experts(N))
    n = dense()[0].numel()
    theirs = math.ceil(round(density * n, 6)) / n + 1e-9  # PEFT keeps ⌊density · n⌋
    close(got, magnitude_prune(dense(), torch.tensor(weights).double(), theirs))
    equal = delta(f"magnitude_prune:density={density}", random_experts(N))
    close(equal, sum(trimmed(d, density) for d in dense()) / N)  # type: ignore[arg-type]


@pytest.mark.parametrize(("density", "outliers"), [(0.15, 0.01), (0.5, 0.3), (0.4, 0)])
def test_breadcrumbs(density: float, outliers: float) -> None:
    expected = torch.zeros(9, 12, dtype=torch.float64)
    for d in dense():
        order = d.abs().flatten().argsort(descending=True)
        first = math.ceil(round(outliers * d.numel(), 6))
        kept = order[first : first + math.ceil(round(density * d.numel(), 6))]
        mask = torch.zeros(d.numel(), dtype=torch.float64)
        mask[kept] = 1
        expected += 0.7 * d * mask.view_as(d)
    got = delta(f"breadcrumbs:density={density}+outliers={outliers}+scale=0.7", random_experts(N))
    close(got, expected)


@pytest.mark.parametrize("density", [0.1, 0.5, 1])
def test_sce(density: float) -> None:
    stacked = torch.stack(dense())
    variance = stacked.var(0, unbiased=False)
    selected = [d * (trimmed(variance, density) > 0) for d in dense()]
    energies = [float(d.square().sum()) for d in selected]
    expected = torch.zeros(9, 12, dtype=torch.float64)
    for place in torch.cartesian_prod(torch.arange(9), torch.arange(12)).tolist():
        entries = [(float(d[tuple(place)]), e) for d, e in zip(selected, energies, strict=True)]
        sign = math.copysign(1, sum(d for d, _ in entries))
        agreeing = [(d, e) for d, e in entries if d * sign > 0]
        if agreeing:
            expected[tuple(place)] = sum(d * e for d, e in agreeing) / sum(e for _, e in agreeing)
    close(delta(f"sce:density={density}", random_experts(N)), expected)


def test_della_without_a_window_is_dare_ties() -> None:
    experts = random_experts(N)
    assert torch.equal(delta("della:density=0.4+window=0", experts), delta("dare_ties:density=0.4", experts))


def test_della_keeps_large_entries_more_often_and_all_in_expectation() -> None:
    """Over 2000 draws probabilities rise with the magnitude's rank in its row, and the mean is the update."""
    method = registry.parse("della:density=0.5+window=0.4")
    assert isinstance(method, Della)
    update = own(random_experts(1)[0])
    draws = torch.stack([method.thin(update, str(i), MODULE) for i in range(2000)])
    rank = update.abs().argsort(-1).argsort(-1)
    expected = 0.5 + 0.4 * ((rank + 0.5) / 12 - 0.5)
    torch.testing.assert_close((draws != 0).float().mean(0), expected, rtol=0, atol=0.05)
    torch.testing.assert_close(draws.mean(0), update, rtol=0.15, atol=0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tsv:rank=0", "rank=0 must be at least 1"),
        ("iso_cts:common=1.5", "common=1.5 must lie between 0 and 1"),
        ("iso_c:scale=nan", "scale='nan': a finite number is due"),
        ("core_space:density=2", "density=2.0 must lie between 0 and 1"),
        ("breadcrumbs:density=0.9+outliers=0.2", "outliers=0.2 must lie between 0 and 1 - density"),
        ("della:density=0.1+window=0.4", "window=0.4 must leave density"),
        ("core_space:weights=1/2", "must be 3 numbers"),
    ],
)
def test_options_out_of_range(spec: str, message: str) -> None:
    with pytest.raises(LorafuseError, match=message):
        registry.parse(spec).check(ExpertPool(random_experts(N)))
