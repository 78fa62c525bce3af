"""Ensembles against one dense fp64 model per expert, and their laws."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from agreement import ARCHITECTURES, adapters, check, constant, instances
from dense import expert_delta, load_base, log_probability, with_delta
from lm_eval.api.instance import Instance
from tiny import tiny_zoo
from torch import Tensor, nn
from transformers import PreTrainedModel

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.ensembling.ensemble import Ensemble
from lorafuse_bench.model_wrappers.hf import LorafuseLM

SPACES = ("prob", "logit")


class MeanModel(nn.Module):
    """N models as one, from the formula: the logarithm of the mean of probabilities, or the mean of logits."""

    def __init__(self, models: Sequence[PreTrainedModel], space: str) -> None:
        super().__init__()
        self.models, self.space = nn.ModuleList(models), space

    def forward(self, ids: Tensor) -> SimpleNamespace:
        logits = [model(ids).logits for model in self.models]
        if self.space == "prob":
            return SimpleNamespace(logits=(sum(z.softmax(-1) for z in logits) / len(logits)).log())
        return SimpleNamespace(logits=sum(logits) / len(logits))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LorafuseLM:
    root = tmp_path_factory.mktemp(request.param)
    tiny_zoo(root, request.param, mixed=True)
    return LorafuseLM("base", zoo=root, batch_size=4, device="cpu")


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> LorafuseLM:
    zoo = tiny_zoo(tmp_path_factory.mktemp("qwen2"), mixed=True)
    return LorafuseLM("base", zoo=zoo.root, device="cpu")


def reference(lm: LorafuseLM, space: str) -> PreTrainedModel:
    base = load_base(lm.zoo.root)
    return MeanModel([with_delta(base, expert_delta(path)) for path in adapters(lm.zoo)], space)  # type: ignore[return-value]


@pytest.mark.parametrize("chunk", [2, None])
@pytest.mark.parametrize("space", SPACES)
def test_scores_and_texts_equal_the_mean_of_dense_models(
    lm: LorafuseLM, space: str, chunk: int | None
) -> None:
    check(
        lm, f"ensemble:space={space}" + (f"+chunk={chunk}" if chunk else ""), constant(reference(lm, space))
    )


@pytest.mark.parametrize("space", SPACES)
def test_rolling_equals_dense(lm: LorafuseLM, space: str) -> None:
    lm.use(registry.parse(f"ensemble:space={space}"))
    text = "All that glitters is not gold. "
    request = Instance("loglikelihood_rolling", {}, (text,), 0, metadata=("lorafuse_mnli", 0, 1))
    got = lm.loglikelihood_rolling([request], disable_tqdm=True)[0]
    expected = log_probability(reference(lm, space), [lm.prefix_token_id], lm.tok_encode(text))
    assert got == pytest.approx(expected, rel=1e-5)


def test_the_spaces_differ(qwen2: LorafuseLM) -> None:
    """Guards the tests above: experts that agree would not tell the spaces apart."""
    scores = []
    for space in SPACES:
        qwen2.use(registry.parse(f"ensemble:space={space}"))
        scores.append(qwen2.loglikelihood(instances("loglikelihood"), disable_tqdm=True)[0][0])
    assert abs(scores[0] - scores[1]) > 1e-2


def test_hand_computed() -> None:
    """Two members, two words: probabilities (.8, .2) and (.5, .5)."""
    logits = torch.tensor([[4.0, 1.0], [1.0, 1.0]]).log()[:, None]
    weights = torch.tensor([0.5, 0.5])
    prob, logit = Ensemble(), Ensemble(space="logit")
    mean = prob.log_probabilities(prob.add(None, logits, weights)).exp()
    torch.testing.assert_close(mean, torch.tensor([[0.65, 0.35]]))
    # sqrt(4 * 1) : sqrt(1 * 1) = 2 : 1
    geometric = logit.log_probabilities(logit.add(None, logits, weights)).exp()
    torch.testing.assert_close(geometric, torch.tensor([[2 / 3, 1 / 3]]))


@pytest.mark.parametrize("space", SPACES)
def test_chunks_weights_and_extreme_logits(space: str) -> None:
    """Chunk by chunk is all at once; weights count; nothing overflows or becomes log 0."""
    method = Ensemble(space=space)  # type: ignore[arg-type]
    logits = torch.randn(5, 3, 7, generator=torch.Generator().manual_seed(0)) * 300
    weights = torch.tensor([0.1, 0.3, 0.2, 0.15, 0.25])
    whole = method.log_probabilities(method.add(None, logits, weights))
    total: Tensor | None = None
    for i in (0, 2, 4):
        total = method.add(total, logits[i : i + 2], weights[i : i + 2])
    assert total is not None
    torch.testing.assert_close(method.log_probabilities(total), whole)
    assert torch.isfinite(whole).all()
    torch.testing.assert_close(whole.exp().sum(-1), torch.ones(3))
    z = logits.double()
    w = weights.double()[:, None, None]
    exact = (w * z.softmax(-1)).sum(0) if space == "prob" else (w * z).sum(0).softmax(-1)
    torch.testing.assert_close(whole.exp().double(), exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "chunk", "largest"),
    [(1, None, 1), (2, None, 2), (2, 1, 1), (3, None, 3), (7, None, 6), (7, 2, 4)],
)
def test_memory_is_bounded(qwen2: LorafuseLM, rows: int, chunk: int | None, largest: int) -> None:
    """Rows of any forward pass: the batch size at most; N rows a prompt when generating."""
    seen: list[int] = []
    handle = qwen2.model.get_input_embeddings().register_forward_pre_hook(
        lambda m, args: seen.append(len(args[0]))
    )
    qwen2.batch_size_per_gpu = rows
    qwen2.use(Ensemble(chunk=chunk))
    try:
        qwen2.loglikelihood(instances("loglikelihood"), disable_tqdm=True)
        assert max(seen) == largest
        seen.clear()
        qwen2.generate_until(instances("generate_until"), disable_tqdm=True)
        assert max(seen) == max(3, rows // 3 * 3)
    finally:
        handle.remove()


@pytest.mark.parametrize("settings", [{"do_sample": True, "temperature": 1.0}, {"num_beams": 2}])
def test_sampling_and_beams_are_refused(qwen2: LorafuseLM, settings: dict[str, object]) -> None:
    qwen2.use(Ensemble())
    request = Instance(
        "generate_until", {}, ("x:", {"until": ["<never>"], **settings}), 0, metadata=("t", 0, 1)
    )
    with pytest.raises(LorafuseError, match="'ensemble' generates greedily only"):
        qwen2.generate_until([request], disable_tqdm=True)


def test_options_out_of_range() -> None:
    with pytest.raises(LorafuseError, match="chunk=0 must be at least 1"):
        registry.parse("ensemble:chunk=0")
    with pytest.raises(LorafuseError, match="space='mean'"):
        registry.parse("ensemble:space=mean")
