"""The merges against plain fp64 implementations: entry by entry for TIES and DARE, a dense SVD for KnOTS."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from agreement import ARCHITECTURES, adapters, check, constant
from dense import Deltas, expert_delta, load_base, raw_factors, total, with_delta
from one_map import MODULE, expert
from tiny import tiny_zoo
from torch import Tensor

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.base import Merge
from lorafuse_bench.fusion.merging.elementwise import disjoint_mean, keep_largest
from lorafuse_bench.fusion.merging.knots import shared_basis
from lorafuse_bench.model_wrappers.hf import LorafuseLM

BEFORE = pytest.mark.filterwarnings("ignore:method '.*' combines factors")
N = 3
Thin = Callable[[Tensor, str, str], Tensor]
Join = Callable[[Sequence[Tensor]], Tensor]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LorafuseLM:
    """Three experts of unequal ranks, alphas and scalings; one leaves out one kind of linear map."""
    root = tmp_path_factory.mktemp(request.param)
    tiny_zoo(root, request.param, experts=N, mixed=True)
    return LorafuseLM("base", zoo=root, batch_size=4, device="cpu")


# --- the formulas, entry by entry ---------------------------------------------------------------------


def trim(density: float) -> Thin:
    """The ⌈density · n⌉ entries of largest magnitude, one list at a time."""

    def thin(tensor: Tensor, name: str, key: str) -> Tensor:
        values = tensor.flatten().tolist()
        order = sorted(range(len(values)), key=lambda i: (-abs(values[i]), i))
        kept = set(order[: math.ceil(density * len(values))])
        return (
            torch.tensor([v if i in kept else 0.0 for i, v in enumerate(values)]).double().view(tensor.shape)
        )

    return thin


def drop(density: float, seed: int = 0) -> Thin:
    """Kept with probability `density`, by a draw from (seed, name, key), and divided by it."""

    def thin(tensor: Tensor, name: str, key: str) -> Tensor:
        digest = hashlib.sha256(f"{seed}\n{name}\n{key}".encode()).hexdigest()
        draw = torch.rand(tensor.shape, generator=torch.Generator().manual_seed(int(digest[:16], 16) // 2))
        return tensor * (draw < density) / density

    return thin


def elect(weights: Sequence[float]) -> Join:
    """Weights, then the sign of the sum, then the weighted mean of the entries with that sign."""

    def entry(values: Sequence[float]) -> float:
        weighted = [w * v for w, v in zip(weights, values, strict=True)]
        sign = math.copysign(1, sum(weighted)) if sum(weighted) else 0
        agree = [i for i, x in enumerate(weighted) if x * sign > 0]
        return sum(weighted[i] for i in agree) / sum(abs(weights[i]) for i in agree) if agree else 0.0

    def join(tensors: Sequence[Tensor]) -> Tensor:
        columns = zip(*(t.flatten().tolist() for t in tensors), strict=True)
        return torch.tensor([entry(c) for c in columns], dtype=torch.float64).view(tensors[0].shape)

    return join


def add(weights: Sequence[float]) -> Join:
    return lambda tensors: torch.stack([w * t for w, t in zip(weights, tensors, strict=True)]).sum(0)


def merged_products(lm: LorafuseLM, thin: Thin, join: Join) -> Deltas:
    deltas = [expert_delta(path) for path in adapters(lm.zoo)]
    shapes = {m: d.shape for delta in deltas for m, d in delta.items()}
    names = [entry.name for entry in lm.zoo.manifest.experts]
    zero = {m: torch.zeros(shape, dtype=torch.float64) for m, shape in shapes.items()}
    return {
        m: join([thin(d.get(m, zero[m]), name, m) for d, name in zip(deltas, names, strict=True)])
        for m in shapes
    }


def merged_factors(lm: LorafuseLM, thin: Thin, join: Join) -> Deltas:
    experts = [raw_factors(path) for path in adapters(lm.zoo)]
    names = [entry.name for entry in lm.zoo.manifest.experts]
    result = {}
    for m in {m for factors, _ in experts for m in factors}:
        a0, b0 = next(f[m] for f, _ in experts if m in f)
        rank = max(f[m][0].shape[0] for f, _ in experts if m in f)
        downs, ups = [], []
        for (factors, scaling), name in zip(experts, names, strict=True):
            a, b = factors.get(m, (a0[:0], b0[:, :0]))
            r = a.shape[0]
            downs.append(F.pad(thin(a, name, f"{m}.A"), (0, 0, 0, rank - r)))
            ups.append(F.pad(thin(scaling.get(m, 1.0) * b, name, f"{m}.B"), (0, rank - r)))
        result[m] = join(ups) @ join(downs)
    return result


ONES, HALVES = (1.0,) * N, (0.5, -0.25, 2.0)
THIRDS = (1 / N,) * N


@pytest.mark.parametrize(
    ("spec", "thin", "join", "scale"),
    [
        ("ties", trim(0.2), elect(ONES), 1),
        ("ties:density=0.5+scale=0.7", trim(0.5), elect(ONES), 0.7),
        ("ties:weights=0.5/-0.25/2", trim(0.2), elect(HALVES), 1),
        ("dare", drop(0.5), add(THIRDS), 1),
        ("dare:combine=sum+density=0.3+scale=0.5+seed=4", drop(0.3, 4), add(ONES), 0.5),
        ("dare:weights=0.5/-0.25/2+density=1", drop(1.0), add(HALVES), 1),
        ("dare_ties", drop(0.5), elect(ONES), 1),
        ("dare_ties:density=0.3+weights=0.5/-0.25/2", drop(0.3), elect(HALVES), 1),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_products(lm: LorafuseLM, spec: str, thin: Thin, join: Join, scale: float) -> None:
    delta = {m: scale * d for m, d in merged_products(lm, thin, join).items()}
    check(lm, spec, constant(with_delta(load_base(lm.zoo.root), delta)))


@BEFORE
@pytest.mark.parametrize(
    ("spec", "thin", "join"),
    [
        ("ties:space=factors+density=0.5", trim(0.5), elect(ONES)),
        ("dare:space=factors", drop(0.5), add(THIRDS)),
        ("dare_ties:space=factors+weights=0.5/-0.25/2", drop(0.5), elect(HALVES)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_factors(lm: LorafuseLM, spec: str, thin: Thin, join: Join) -> None:
    check(lm, spec, constant(with_delta(load_base(lm.zoo.root), merged_factors(lm, thin, join))))


def dense_knots(lm: LorafuseLM, thin: Thin, join: Join, on_v: bool) -> Deltas:
    """SVD of the `(out, N·in)` matrix itself; the parts of `S V` or of `V` merged like updates."""
    deltas = [expert_delta(path) for path in adapters(lm.zoo)]
    shapes = {m: d.shape for delta in deltas for m, d in delta.items()}
    result = {}
    for m, shape in shapes.items():
        wide = torch.cat([d.get(m, torch.zeros(shape, dtype=torch.float64)) for d in deltas], dim=1)
        u, s, vt = torch.linalg.svd(wide, full_matrices=False)
        k = int((s > 1e-6 * s[0]).sum())
        right = torch.diag(s[:k]) @ vt[:k]
        right[right.abs() <= 1e-6 * s[0]] = 0  # rounding has no vote
        left = u[:, :k]
        if on_v:
            left, right = left @ torch.diag(s[:k]), torch.diag(1 / s[:k]) @ right
        result[m] = left @ join([thin(part, "", m) for part in right.split(shape[1], dim=1)])
    return result


@pytest.mark.parametrize(
    ("spec", "thin", "join", "on_v", "scale"),
    [
        ("knots", trim(0.2), elect(ONES), False, 1),
        ("knots:trim=v+density=0.6", trim(0.6), elect(ONES), True, 1),
        ("knots:weights=0.5/-0.25/2+scale=0.7", trim(0.2), elect(HALVES), False, 0.7),
        ("knots:merge=linear+trim=v", trim(1.0), add(THIRDS), True, 1),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_knots(lm: LorafuseLM, spec: str, thin: Thin, join: Join, on_v: bool, scale: float) -> None:
    delta = {m: scale * d for m, d in dense_knots(lm, thin, join, on_v).items()}
    check(lm, spec, constant(with_delta(load_base(lm.zoo.root), delta)))


@BEFORE
def test_merge_uniform(lm: LorafuseLM) -> None:
    base = load_base(lm.zoo.root)
    mean = total([expert_delta(path) for path in adapters(lm.zoo)], weight=1 / N)
    check(lm, "merge_uniform:space=full", constant(with_delta(base, mean)))
    check(lm, "merge_uniform", constant(with_delta(base, merged_factors(lm, trim(1.0), add(THIRDS)))))


# --- by hand ------------------------------------------------------------------------------------------


def merged(spec: str, *updates: Sequence[float], scalings: Sequence[float] | None = None) -> list[float]:
    """The merge of rank-1 experts whose `B A` are the given rows `(1, in)`."""
    made = [
        expert(torch.tensor([row]), torch.ones(1, 1), s, f"e{i}")
        for i, (row, s) in enumerate(zip(updates, scalings or [1.0] * len(updates), strict=True))
    ]
    method = registry.parse(spec)
    assert isinstance(method, Merge)
    adapter = method.fuse(ExpertPool(made))
    if adapter.dense:
        return adapter.dense[MODULE][0].tolist()
    a, b = adapter.factors[MODULE]
    return (b @ a)[0].tolist()


def test_ties_by_hand() -> None:
    """Columns: all agree; two against one; an elected minority of larger size; opposite and equal."""
    one, two, three = (1.0, 2.0, -6.0, 2.0), (2.0, 4.0, 2.0, -2.0), (3.0, -1.0, 2.0, 0.0)
    assert merged("ties:density=1", one, two, three) == [2, 3, -6, 0]
    # ⌈0.5 · 4⌉ = 2 each: one keeps -6 and the first 2, two keeps 4 and the first 2, three 3 and 2.
    assert merged("ties:density=0.5", one, two, three) == [2.5, 3, -6, 0]
    # Weighted: -1 flips the third expert; means divide by |λ|.
    assert merged("ties:density=1+weights=1/2/-1", one, two, three) == pytest.approx([5 / 3, 11 / 4, -4, -2])


def test_dare_by_hand() -> None:
    assert merged("dare:density=1", (1.0, 2.0), (3.0, -4.0)) == [2, -1]
    assert merged("dare:density=1+combine=sum+scale=0.5", (1.0, 2.0), (3.0, -4.0)) == [2, -1]
    assert merged("dare:density=0", (1.0, 2.0), (3.0, -4.0)) == [0, 0]
    half = merged("dare:density=0.25+weights=1", [1.0] * 4000)
    assert set(half) == {0.0, 4.0}
    assert half.count(4.0) == pytest.approx(1000, abs=100)  # 3.6 standard deviations


def test_knots_by_hand() -> None:
    """One output: U is ±1, S the norm of all updates together, so S V_i is the update itself (up to sign)."""
    one, two = (3.0, 0.0), (-1.0, 2.0)
    assert merged("knots:density=1", one, two) == pytest.approx([3, 2], abs=1e-6)
    assert merged("knots:density=0.5", one, two) == pytest.approx([3, 2], abs=1e-6)
    assert merged("knots:merge=linear", one, two) == pytest.approx([1, 1], abs=1e-6)


def test_knots_is_low_rank_exactly() -> None:
    """Two rank-1 experts with parallel B span one direction: one LoRA of rank 1."""
    b = torch.tensor([[1.0], [2.0]])
    pool = ExpertPool(
        [expert(torch.tensor([[1.0, 0.0]]), b, 1.0, "x"), expert(torch.tensor([[0.0, 1.0]]), b, 3.0, "y")]
    )
    method = registry.parse("knots:density=1")
    assert isinstance(method, Merge)
    adapter = method.fuse(pool)
    assert not adapter.dense
    assert adapter.factors[MODULE][0].shape == (1, 2)


def test_keep_largest_counts_exactly_and_leaves_its_input_alone() -> None:
    tied = torch.tensor([[1.0, -1.0, 1.0], [2.0, 0.0, 1.0]])
    before = tied.clone()
    assert keep_largest(tied, 0.5).tolist() == [[1, -1, 0], [2, 0, 0]]
    assert torch.equal(tied, before)
    assert keep_largest(tied, 0.5, out=tied) is tied
    assert tied.tolist() == [[1, -1, 0], [2, 0, 0]]


@pytest.mark.parametrize("spec", ["ties:space=factors", "magnitude_prune:space=factors", "ties", "knots"])
def test_trimming_in_place_leaves_the_experts_alone(spec: str) -> None:
    g = torch.Generator().manual_seed(0)
    pool = ExpertPool(
        [
            expert(torch.randn(2, 6, generator=g), torch.randn(5, 2, generator=g), 1.0, f"e{i}")
            for i in range(3)
        ]
    )
    before = pool.modules[MODULE].A.clone(), pool.modules[MODULE].B.clone()
    method = registry.parse(spec)
    assert isinstance(method, Merge)
    method.fuse(pool)
    assert torch.equal(pool.modules[MODULE].A, before[0])
    assert torch.equal(pool.modules[MODULE].B, before[1])


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (64, 68), (300, 101)])
@pytest.mark.parametrize("kind", ["normal", "low rank", "few values", "every 67th is large", "absent"])
def test_keep_largest_is_exact_however_the_entries_lie(shape: tuple[int, int], kind: str) -> None:
    g = torch.Generator().manual_seed(0)
    tensor = torch.randn(shape, generator=g)
    if kind == "low rank":
        tensor = torch.randn(shape[0], 1, generator=g) @ torch.randn(1, shape[1], generator=g)
    elif kind == "few values":
        tensor = tensor.round()
    elif kind == "every 67th is large":
        tensor.view(-1)[::67] *= 1000
    elif kind == "absent":
        tensor.zero_()
    for density in (0.0, 0.01, 0.2, 0.5, 0.99, 1.0):
        found = keep_largest(tensor, density)
        assert torch.equal(found.double(), trim(density)(tensor, "", ""))
        assert torch.equal(
            keep_largest(tensor.T, density) != 0, keep_largest(tensor.T.contiguous(), density) != 0
        )


@pytest.mark.parametrize("weights", [[1.0] * 600, [0.5] * 300 + [-2.0] * 299 + [0.0]])
def test_disjoint_mean_of_more_experts_than_a_byte_counts(weights: list[float]) -> None:
    g = torch.Generator().manual_seed(0)
    tensors = [torch.randn(3, 4, generator=g).round().double() for _ in weights]
    torch.testing.assert_close(disjoint_mean(tensors, weights), elect(weights)(tensors))


def test_updates_that_cancel_but_for_rounding_elect_nothing() -> None:
    g = torch.Generator().manual_seed(0)
    one, two, three = (torch.randn(50, 40, generator=g) for _ in range(3))
    assert not disjoint_mean([one, two, three, -one, -two, -three], [1.0] * 6).any()


@pytest.mark.parametrize("smallest", [1.0, 1e-2, 1e-4, 1e-8])
@pytest.mark.parametrize("out", [5, 40])
def test_knots_basis_is_that_of_an_svd_down_to_rounding(smallest: float, out: int) -> None:
    """Directions much smaller than the largest, where eigenvectors of the squares would be too coarse."""
    g = torch.Generator().manual_seed(0)
    spread = torch.logspace(0, math.log10(smallest), 4)
    experts = [
        expert(torch.randn(4, 30, generator=g), torch.randn(out, 4, generator=g) * spread, 1.0, f"e{i}")
        for i in range(3)
    ]
    stack = ExpertPool(experts).modules[MODULE]
    u, s, parts = shared_basis(stack)
    wide = torch.cat([b.double() @ a.double() for a, b in zip(stack.A, stack.B, strict=True)], dim=1)
    expected = torch.linalg.svdvals(wide)
    torch.testing.assert_close(s, expected[: len(s)], rtol=1e-6, atol=0)
    assert (expected[len(s) :] < 1e-6 * expected[0]).all()
    torch.testing.assert_close(u.T @ u, torch.eye(len(s), dtype=u.dtype), rtol=0, atol=1e-9)
    torch.testing.assert_close(
        u @ torch.cat(list(parts), dim=1).double(), wide, rtol=0, atol=2e-6 * float(expected[0])
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ties:density=1.5", "density=1.5 must lie between 0 and 1"),
        ("dare:density=nan", "density='nan': a finite number is due"),
        ("knots:density=-0.1", "density=-0.1 must lie"),
        ("dare_ties:scale=inf", "scale='inf': a finite number is due"),
        ("ties:weights=1/2", "must be 1 numbers"),
        ("knots:weights=nan", "must be 1 numbers"),
        ("dare:combine=sum+weights=1", "exclude each other"),
        ("ties:desnity=1", "Did you mean 'density'"),
    ],
)
def test_bad_options(spec: str, message: str) -> None:
    with pytest.raises(LorafuseError, match=message):
        merged(spec, (1.0, 2.0))
