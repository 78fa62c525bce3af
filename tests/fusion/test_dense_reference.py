"""Every method against dense fp64 weights, through the lm-eval model: padding, batches, cache, generation."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from agreement import ARCHITECTURES, EOS, REQUESTS, adapters, check, constant
from dense import Deltas, blockwise, expert_delta, load_base, log_probability, raw_factors, total, with_delta
from lm_eval.api.instance import Instance
from safetensors.torch import load_file
from tiny import add_router, tiny_zoo
from transformers import PreTrainedModel

from lorafuse_bench.fusion import registry
from lorafuse_bench.model_wrappers.hf import LorafuseLM


@pytest.fixture(scope="module", params=ARCHITECTURES)
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LorafuseLM:
    root = tmp_path_factory.mktemp(request.param)
    zoo = tiny_zoo(root, request.param, mixed=True)
    for pooling in ("last", "mean"):
        zoo = add_router(zoo, pool=pooling)
    return LorafuseLM("base", zoo=root, batch_size=4, device="cpu")


def test_base(lm: LorafuseLM) -> None:
    check(lm, "base", constant(load_base(lm.zoo.root)))


def test_oracle(lm: LorafuseLM) -> None:
    base = load_base(lm.zoo.root)
    own = {
        entry.task: with_delta(base, expert_delta(lm.zoo.root / entry.path))
        for entry in lm.zoo.manifest.experts
    }
    check(lm, "oracle", lambda task, context: own[task])


@pytest.mark.parametrize(("spec", "scaled"), [("concat", True), ("concat:scaling=false", False)])
def test_concat(lm: LorafuseLM, spec: str, scaled: bool) -> None:
    delta = total([expert_delta(path, scaled) for path in adapters(lm.zoo)])
    check(lm, spec, constant(with_delta(load_base(lm.zoo.root), delta)))


@pytest.mark.filterwarnings("ignore:method 'weight_sum' combines factors")
@pytest.mark.parametrize(
    ("spec", "weights"),
    [
        ("weight_sum", (1, 1, 1)),
        ("weight_sum:average", (1 / 3, 1 / 3, 1 / 3)),
        ("weight_sum:weights=0.5/-0.25/2", (0.5, -0.25, 2)),
    ],
)
def test_weight_sum(lm: LorafuseLM, spec: str, weights: Sequence[float]) -> None:
    experts = [raw_factors(path) for path in adapters(lm.zoo)]
    delta: Deltas = {}
    for module in {m for factors, _ in experts for m in factors}:
        present = [
            (w, *f[module], s[module]) for w, (f, s) in zip(weights, experts, strict=True) if module in f
        ]
        rank = max(a.shape[0] for _, a, _, _ in present)
        a_sum = sum(w * F.pad(a, (0, 0, 0, rank - a.shape[0])) for w, a, _, _ in present)
        b_sum = sum(w * s * F.pad(b, (0, rank - b.shape[1])) for w, _, b, s in present)
        delta[module] = b_sum @ a_sum
    check(lm, spec, constant(with_delta(load_base(lm.zoo.root), delta)))


@pytest.mark.parametrize(("spec", "rank"), [("svd", None), ("svd:rank=3", 3)])
def test_svd(lm: LorafuseLM, spec: str, rank: int | None) -> None:
    experts = [raw_factors(path)[0] for path in adapters(lm.zoo)]
    mean = total([expert_delta(path) for path in adapters(lm.zoo)], weight=1 / 3)
    delta = {}
    for module, matrix in mean.items():
        r = rank or max(f[module][0].shape[0] for f in experts if module in f)
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        delta[module] = u[:, :r] @ torch.diag(s[:r]) @ v[:r]
    check(lm, spec, constant(with_delta(load_base(lm.zoo.root), delta)))


class MoaReference:
    """Routing as the paper describes it, in fp64, one prompt at a time, a fresh model for every block."""

    def __init__(self, lm: LorafuseLM, decision: str, pooling: str) -> None:
        self.lm = lm
        self.decision = decision
        self.pooling = pooling
        self.base = load_base(lm.zoo.root)
        self.deltas = [expert_delta(path) for path in adapters(lm.zoo)]
        router = lm.zoo.root / "routers" / f"moa-{pooling}" / "router.safetensors"
        self.router = {key: value.double() for key, value in load_file(router).items()}

    @torch.no_grad()
    def __call__(self, task: str, context: str) -> PreTrainedModel:
        ids = torch.tensor([self.lm.tok_encode(context)])
        logits: list[torch.Tensor] = []
        blocks = len(self.router["w1"])
        for block in range(blocks):
            chosen = [self.deltas[int(x.argmax())] for x in logits] + [{}] * (blocks - block)
            model = with_delta(self.base, blockwise(chosen))
            states = model(ids, output_hidden_states=True).hidden_states[block][0]
            h = states[-1] if self.pooling == "last" else states.mean(0)
            hidden = F.gelu(self.router["w1"][block] @ h + self.router["b1"][block])
            logits.append(self.router["w2"][block] @ hidden + self.router["b2"][block])
        votes = [int(x.argmax()) for x in logits]
        if self.decision == "last":
            votes = [votes[-1]] * blocks
        elif self.decision == "vote":
            share = sum(x.softmax(0) for x in logits)
            best = max(range(len(share)), key=lambda e: (votes.count(e), share[e].item()))
            votes = [best] * blocks
        return with_delta(self.base, blockwise([self.deltas[e] for e in votes]))


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("decision", ["last", "vote", "per_block"])
def test_moa(lm: LorafuseLM, decision: str, pooling: str) -> None:
    check(lm, f"moa:decision={decision}+pooling={pooling}", MoaReference(lm, decision, pooling))


def test_moa_routes_these_prompts_differently(lm: LorafuseLM) -> None:
    """Guards the test above: a router with one answer would not test routing."""
    lm.use(registry.parse("moa:decision=per_block"))
    prompts = [tuple(lm.tok_encode(context)) for _, context, _ in REQUESTS]
    choices = lm._choose(prompts, [task for task, _, _ in REQUESTS])
    assert choices is not None
    assert len({tuple(choice.tolist()) for choice in choices}) > 1


def test_rolling_equals_dense(lm: LorafuseLM) -> None:
    """Rolling log-likelihood of a text longer than the model, with each task's own expert."""
    lm.use(registry.parse("oracle"))
    base = load_base(lm.zoo.root)
    text = "All that glitters is not gold. " * 20
    lm._max_length = 64
    try:
        request = Instance(
            request_type="loglikelihood_rolling",
            doc={},
            arguments=(text,),
            idx=0,
            metadata=("lorafuse_mnli", 0, 1),
        )
        got = lm.loglikelihood_rolling([request], disable_tqdm=True)[0]
    finally:
        lm._max_length = None
    ids = lm.tok_encode(text)
    model = with_delta(base, expert_delta(lm.zoo.root / lm.zoo.manifest.experts[1].path))
    expected, start = 0.0, 0
    while start < len(ids):
        end = min(start + 64, len(ids))
        # Windows are disjoint; the last one is preceded by all the context that fits.
        context = [EOS] if start == 0 else ids[max(0, end - 65) : start]
        expected += log_probability(model, context, ids[start:end])
        start = end
    assert got == pytest.approx(expected, rel=1e-5)
