"""Learned methods against their formulas in double precision, and their gradients against finite differences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lm_eval.api.instance import Instance
from tiny import tiny_zoo
from torch import Tensor
from torch.autograd import gradcheck

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool, LoraExpert
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.base import Learned
from lorafuse_bench.fusion.ensembling.ensemble import mixture_loss
from lorafuse_bench.fusion.ensembling.minimax import minimax_weights
from lorafuse_bench.fusion.fitted import Fitted
from lorafuse_bench.fusion.merging.lorahub import summed
from lorafuse_bench.fusion.merging.merge_sgd import average
from lorafuse_bench.fusion.routing.clusters import clusters_of
from lorafuse_bench.fusion.routing.hc import CLUSTERS, INSIDE, ArrowHc, Hc, log_inside
from lorafuse_bench.fusion.routing.phatgoose import alone, standardised
from lorafuse_bench.fusion.routing.routing_sgd import routed
from lorafuse_bench.layers import GatedUpdate
from lorafuse_bench.loading import load_model
from lorafuse_bench.model_wrappers.hf import LorafuseLM
from lorafuse_bench.training.fitting import FitSettings, fit
from lorafuse_bench.zoo.manifest import Zoo

MODULE = "model.layers.0.self_attn.q_proj"
N, IN, OUT = 3, 5, 4


def doubles(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def pool() -> ExpertPool:
    """Three experts of ranks 2, 3 and 2, scalings 0.5, 1 and 1.5, in double precision."""
    return ExpertPool(
        [
            LoraExpert(
                name=f"e{i}",
                tasks=(f"e{i}",),
                path=Path(f"e{i}"),
                sha256="0",
                base_sha256=None,
                rank=2 + i % 2,
                alpha=1.0,
                factors={MODULE: (doubles(2 + i % 2, IN, seed=i), doubles(OUT, 2 + i % 2, seed=9 + i))},
                scaling={MODULE: 0.5 + 0.5 * i},
            )
            for i in range(N)
        ]
    )


def merged_before(pool: ExpertPool, weights: Tensor, x: Tensor) -> Tensor:
    """`(Σ λ_i s_i B_i)(Σ λ_j A_j) x` for each token, padded by hand."""
    rows = []
    for w, token in zip(weights, x, strict=True):
        a, b = torch.zeros(3, IN, dtype=torch.float64), torch.zeros(OUT, 3, dtype=torch.float64)
        for i, expert in enumerate(pool.experts):
            down, up = expert.factors[MODULE]
            a[: len(down)] += w[i] * down
            b[:, : up.shape[1]] += w[i] * expert.scaling[MODULE] * up
        rows.append(b @ a @ token)
    return torch.stack(rows)


def output(update: GatedUpdate, x: Tensor) -> Tensor:
    return update.add_to(torch.zeros(1, len(x), OUT, dtype=torch.float64), x[None])[0]


def test_routing_follows_its_formula_and_starts_as_the_uniform_merge(pool: ExpertPool) -> None:
    x, maps = doubles(6, IN, seed=3), doubles(N, IN, seed=4)
    for k, weights in ((N, (x @ maps.T).softmax(-1)), (2, None)):
        if weights is None:
            logits = x @ maps.T
            weights = logits.masked_fill(logits < logits.sort(-1).values[:, 1:2], -torch.inf).softmax(-1)
        got = output(routed(pool, {MODULE: maps}, k)[MODULE], x)  # type: ignore[arg-type]
        torch.testing.assert_close(got, merged_before(pool, weights, x))
    start = output(routed(pool, {MODULE: torch.zeros_like(maps)}, N)[MODULE], x)  # type: ignore[arg-type]
    a, b = registry.parse("mu:merge=before").fuse(pool).factors[MODULE]  # type: ignore[attr-defined]
    torch.testing.assert_close(start, x @ a.T @ b.T)


def test_hierarchical_weights_follow_their_formula(pool: ExpertPool) -> None:
    x, maps, inside = doubles(6, IN, seed=3), doubles(2, IN, seed=4), doubles(1, N, seed=5)
    clusters = torch.tensor([0, 1, 0])
    found = {MODULE: maps, INSIDE: inside, CLUSTERS: clusters}
    got = output(Hc()._updates(pool, found, N)[MODULE], x)  # type: ignore[arg-type]
    over = (x @ maps.T).softmax(-1)
    e = inside[0].exp()
    mu = torch.stack([e[0] / (e[0] + e[2]), torch.ones_like(e[1]), e[2] / (e[0] + e[2])])
    torch.testing.assert_close(got, merged_before(pool, over[:, clusters] * mu, x))
    torch.testing.assert_close(log_inside(inside[0], clusters).exp(), mu)


def test_a_clusters_prototype_is_that_of_its_mean_update(pool: ExpertPool) -> None:
    stack, clusters = pool.modules[MODULE], torch.tensor([0, 1, 0])
    got = ArrowHc().prototypes(stack, clusters)
    for c, members in enumerate(([0, 2], [1])):
        mean = sum(stack.B[i] @ stack.A[i] for i in members) / len(members)
        right = torch.linalg.svd(mean).Vh[0]  # type: ignore[arg-type]
        torch.testing.assert_close(abs(got[c] @ right), torch.ones((), dtype=torch.float64))


def test_phatgoose_follows_its_formula(pool: ExpertPool) -> None:
    x, gates = doubles(6, IN, seed=3), doubles(N, IN, seed=4)
    runtime = Fake(pool, {MODULE: gates})
    got = output(registry.parse("phatgoose").updates(runtime)[MODULE], x)  # type: ignore[arg-type]
    bar = lambda v: (v - v.mean(-1, keepdim=True)) / v.std(-1, unbiased=False, keepdim=True)  # noqa: E731
    logits = bar(x) @ bar(gates).T / IN**0.5
    weights = logits.masked_fill(logits < logits.sort(-1).values[:, 1:2], -torch.inf).softmax(-1)
    stack = pool.modules[MODULE]
    each = torch.einsum("nor,nri,ti->tno", stack.B, stack.A, x)
    torch.testing.assert_close(got, (weights[..., None] * each).sum(1))
    one = output(alone(pool, 1, {MODULE: gates[1]})[MODULE], x)  # type: ignore[arg-type]
    torch.testing.assert_close(one, (x @ gates[1]).sigmoid()[:, None] * each[:, 1])
    assert standardised(torch.zeros(1, IN)).abs().max() == 0


class Fake:
    """A runtime that has learned `tensors`."""

    def __init__(self, pool: ExpertPool, tensors: dict[str, Tensor]) -> None:
        self.pool, self.tensors = pool, tensors

    def artefact(self, method: object) -> Learned:
        return Learned("fake", self.tensors, {}, {}, self.pool.names)


def test_gradients_agree_with_finite_differences(pool: ExpertPool) -> None:
    x = doubles(4, IN, seed=3)
    leaf = lambda *shape: doubles(*shape, seed=6).requires_grad_()  # noqa: E731
    assert gradcheck(lambda w: output(routed(pool, {MODULE: w}, N)[MODULE], x), leaf(N, IN))  # type: ignore[arg-type]
    assert gradcheck(lambda v: output(alone(pool, 1, {MODULE: v})[MODULE], x), leaf(IN))  # type: ignore[arg-type]
    fixed = {CLUSTERS: torch.tensor([0, 1, 0])}
    assert gradcheck(
        lambda w, t: output(Hc()._updates(pool, {MODULE: w, INSIDE: t, **fixed}, N)[MODULE], x),  # type: ignore[arg-type]
        (leaf(2, IN), leaf(1, N)),
    )

    def merged(logits: Tensor) -> Tensor:
        a, b = average(pool, MODULE, logits.softmax(-1))
        return x @ a.T @ b.T

    assert gradcheck(merged, leaf(N))
    assert gradcheck(lambda t: mixture_loss({"logits": t}, doubles(N, 7).log_softmax(0)), leaf(N))


def test_the_mixtures_loss_is_that_of_the_mean_probability() -> None:
    logits, scores = doubles(N), doubles(N, 7, seed=1) - 3
    weights = logits.exp() / logits.exp().sum()
    expected = -(weights[:, None] * scores.exp()).sum(0).log().sum()
    torch.testing.assert_close(mixture_loss({"logits": logits}, scores), expected)


def test_the_linear_program_by_hand() -> None:
    """λ₁ + 4λ₂ = 3λ₁ + 2λ₂ at λ = (½, ½); an expert that is best everywhere takes all."""
    torch.testing.assert_close(
        minimax_weights(torch.tensor([[1.0, 3.0], [4.0, 2.0]])), torch.tensor([0.5, 0.5])
    )
    torch.testing.assert_close(
        minimax_weights(torch.tensor([[1.0, 1.0], [4.0, 2.0]])), torch.tensor([1.0, 0.0])
    )
    with pytest.raises(LorafuseError, match="any weights solve"):
        minimax_weights(torch.ones(2, 2))
    with pytest.raises(LorafuseError, match="not finite"):
        minimax_weights(torch.tensor([[1.0, float("nan")], [1.0, 2.0]]))


def test_clusters_put_alike_experts_together_and_refuse_too_many(pool: ExpertPool) -> None:
    one, two, three = pool.experts
    alike = replace(one, name="twin", factors={MODULE: tuple(2 * f for f in one.factors[MODULE])})  # type: ignore[dict-item]
    many = ExpertPool([one, two, alike, three])
    assert clusters_of(many, 3).tolist() == [0, 1, 0, 2]
    with pytest.raises(LorafuseError, match="5 clusters of 4 experts"):
        clusters_of(many, 5)
    with pytest.raises(LorafuseError, match="must be between 1 and the number of experts"):
        registry.parse("hc:clusters=5").check(many)


def test_all_experts_under_arrow_are_as_many_as_there_are(pool: ExpertPool) -> None:
    x = doubles(6, IN, seed=3)
    runtime = Fake(pool, {})
    every, three = (registry.parse(f"arrow:k={k}+merge=before").updates(runtime)[MODULE] for k in ("all", 3))  # type: ignore[arg-type]
    assert torch.equal(output(every, x), output(three, x))  # type: ignore[arg-type]


def test_summed_factors_by_hand(pool: ExpertPool) -> None:
    weights = doubles(N, seed=2)
    a, b = summed(pool, weights).factors[MODULE]
    x = doubles(1, IN, seed=3)
    torch.testing.assert_close(x @ a.T @ b.T, merged_before(pool, weights[None], x))


@pytest.mark.parametrize(
    "spec",
    [
        "routing_sgd",
        "routing_sgd:init=arrow",
        "hc:clusters=2",
        "arrow_hc:clusters=2+scope=layer",
        "phatgoose:steps=2",
        "lorahub:shots=1+evaluations=5",
        "distill",
        "moa",
    ],
)
def test_every_learned_method_is_fitted_and_then_used(spec: str, tmp_path: Path) -> None:
    zoo = tiny_zoo(tmp_path, experts=2, mixed=True)
    method = registry.parse(spec)
    assert isinstance(method, Fitted)
    settings = FitSettings(steps=2, batch_size=2, rates=(0.1,), rows=4, dev=2)
    entry = fit(method, "sst2/mnli", zoo, "mini", settings, report=lambda line: None)
    opened = Zoo.open(tmp_path)
    fused = FusedModel(load_model(zoo.base_folder()), opened, ExpertPool.from_zoo(opened))
    start = method.start(fused)
    fused.use(method)
    learned = fused.artefact(method).tensors
    before = start or {key: torch.zeros_like(value) for key, value in learned.items()}
    assert any(not torch.equal(learned[key], before[key]) for key in before), "nothing was learned"
    if spec.startswith("lorahub"):
        assert learned["weights"].shape == (2, 2)
        assert learned["weights"].abs().max() <= 1.5
    assert [one.name for one in fused.in_use] == [entry.name]
    with torch.no_grad():
        fused.selection.set(
            torch.zeros(1, 3, dtype=torch.long) if spec.startswith(("moa", "lorahub")) else None
        )
        assert fused.model(torch.arange(5)[None]).logits.isfinite().all()


@pytest.mark.parametrize("spec", ["hc", "phatgoose:steps=1", "moa", "ensemble:weights=lp", "regmean:rows=1"])
def test_one_expert_is_enough(spec: str, tmp_path: Path) -> None:
    zoo = tiny_zoo(tmp_path, experts=1)
    method = registry.parse(spec)
    assert isinstance(method, Fitted)
    settings = FitSettings(steps=1, batch_size=2, rates=(0.1,), rows=2, dev=2)
    fit(method, "sst2", zoo, "mini", settings, report=lambda line: None)
    lm = LorafuseLM(spec, zoo=tmp_path, data="mini", device="cpu")
    request = Instance("loglikelihood", {}, ("ab", " c"), 0, metadata=("sst2", 0, 1))
    assert lm.loglikelihood([request])[0][0] < 0
