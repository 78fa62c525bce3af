"""Shared prefixes: the same scores as every request on its own, with fewer tokens read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from agreement import ARCHITECTURES
from dense import expert_delta, load_base, log_probability, with_delta
from lm_eval.api.instance import Instance
from tiny import add_router, tiny_zoo
from transformers import AutoConfig, AutoModelForCausalLM

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion import registry
from lorafuse_bench.model_wrappers.hf import LorafuseLM
from lorafuse_bench.scoring import shares_prefixes
from lorafuse_bench.truncation import truncate

# Three experts: the papers' k=4 is too many. Every other method runs with its defaults, and some options;
# trained adapters are in test_adapters_evaluated.py, what `lorafuse fit` learns in fitting/.
SPECS = [
    {"arrow": "arrow:k=2", "spectr": "spectr:k=2"}.get(name, name)
    for name in registry.methods()
    if name == "moa" or not {"adapter", "fit"} & registry.create(name).needed
]
SPECS += [
    "arrow:k=2+merge=before",
    "spectr:k=1+score=subspace",
    "moa:decision=per_block",
    "oracle:wrong",
    "ensemble:space=logit+chunk=2",
]
SHOTS = "Q: What is wet?\nA: Rain is wet, and so is the sea.\n\nQ: What is hot?\nA: The sun is hot.\n\n"
ROWS = [
    # Four choices: of one token, of several, one the beginning of another.
    *[
        ("sst2", "The question is what to drink at noon in the sun:", c)
        for c in ("w", " tea", " tea or", "water")
    ],
    # The same context for other tasks: another expert under the oracle, equal ones under routers.
    *[(t, "The question is what to drink at noon in the sun:", " tea") for t in ("mnli", "squad")],
    # Documents that share their shots, with choices of their own.
    *[
        ("mnli", SHOTS + f"Q: What is {q}?\nA:", c)
        for q in ("cold", "dry as dust")
        for c in (" Ice", " Sand", "!")
    ],
    # The context differs, the continuation does not.
    *[("squad", f"The trophy did not fit the suitcase as the {x}", " was big") for x in ("trophy", "case")],
    ("sst2", "", "no context at all"),
    ("sst2", "", "no context"),
    ("mnli", "x:", "y"),
    # Cut at the start to fit the model, by the length of each continuation.
    *[
        ("squad", "All that glitters is not gold, " * 12 + "no:", c)
        for c in (" a", " b", " Often have you heard")
    ],
]


def requests() -> list[Instance]:
    return [
        Instance("loglikelihood", {}, (context, continuation), 0, metadata=(f"lorafuse_{task}", i, 1))
        for i, (task, context, continuation) in enumerate(ROWS)
    ]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LorafuseLM:
    root = tmp_path_factory.mktemp(request.param)
    add_router(tiny_zoo(root, request.param, mixed=True))
    return LorafuseLM("base", zoo=root, device="cpu", max_length=200)


@contextmanager
def counted(lm: LorafuseLM) -> Iterator[list[int]]:
    """The number of tokens each forward pass reads, padding included."""
    seen: list[int] = []
    handle = lm.model.get_input_embeddings().register_forward_pre_hook(
        lambda m, args: seen.append(args[0].numel())
    )
    yield seen
    handle.remove()


def score(lm: LorafuseLM, batch_size: int, share: bool) -> tuple[list[float], list[bool], int]:
    lm.batch_size_per_gpu, lm.prefix_sharing = batch_size, share
    with counted(lm) as seen:
        scores = lm.loglikelihood(requests(), disable_tqdm=True)
    return [s for s, _ in scores], [g for _, g in scores], sum(seen)


@pytest.mark.filterwarnings("ignore:method '.*' combines factors")
@pytest.mark.parametrize("spec", SPECS)
def test_every_method_scores_the_same(lm: LorafuseLM, spec: str) -> None:
    lm.use(registry.parse(spec))
    expected, greedy, alone = score(lm, 1, share=False)
    for batch_size in (1, 3, 32):
        got, best, _ = score(lm, batch_size, share=True)
        assert got == pytest.approx(expected, abs=1e-4, rel=0), f"batch size {batch_size}"
        assert best == greedy
    _, _, shared = score(lm, 1, share=True)
    assert shared < 0.7 * alone


def test_shared_scores_equal_dense_ones(lm: LorafuseLM) -> None:
    """Not only like the plain path: like an fp64 model of each task's expert."""
    lm.use(registry.parse("oracle"))
    base = load_base(lm.zoo.root)
    own = {e.task: with_delta(base, expert_delta(lm.zoo.root / e.path)) for e in lm.zoo.manifest.experts}
    expected = []
    for task, context, continuation in ROWS:
        ids, target = lm.tok_encode(context) or [lm.prefix_token_id], lm.tok_encode(continuation)
        cut = truncate(ids, 200 - len(target) + 1)
        expected.append(log_probability(own[task], cut, target))
    assert score(lm, 4, share=True)[0] == pytest.approx(expected, rel=1e-5)


def test_rows_of_a_forward_pass_are_bounded_and_only_scored_columns_have_logits(lm: LorafuseLM) -> None:
    lm.use(registry.parse("base"))
    rows: list[int] = []
    columns: list[int] = []

    def look(head: torch.nn.Module, args: tuple[torch.Tensor], logits: torch.Tensor) -> None:
        rows.append(logits.shape[0])
        columns.append(logits.shape[1])

    handle = lm.model.get_output_embeddings().register_forward_hook(look)
    score(lm, 3, share=True)
    handle.remove()
    assert max(rows) <= 3
    # Padded to the row that scores most; rows read up to 200 columns.
    scored = sum(len(lm.tok_encode(continuation)) for _, _, continuation in ROWS)
    assert sum(row * column for row, column in zip(rows, columns, strict=True)) < 2 * scored


def test_a_model_without_logits_to_keep_scores_the_same(
    lm: LorafuseLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm.use(registry.parse("oracle"))
    expected, greedy, _ = score(lm, 4, share=True)
    inner = lm.model.forward

    def forward(input_ids, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None):  # type: ignore[no-untyped-def]
        return inner(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
        )

    monkeypatch.setattr(lm.model, "forward", forward)
    got, best, _ = score(lm, 4, share=True)
    assert got == pytest.approx(expected, abs=1e-5)
    assert best == greedy


def test_soft_capped_logits_stay_capped() -> None:
    """Gemma 2 caps its logits after the head, and attends in windows: it is scored plainly, and right."""
    config = AutoConfig.for_model(
        "gemma2", vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=2
    )
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = 2, 1, 8
    assert not shares_prefixes(AutoModelForCausalLM.from_config(config))


def test_what_keeps_windows_states_or_length_dependent_angles_is_not_shared() -> None:
    small = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}

    def shares(architecture: str, **settings: object) -> bool:
        config = AutoConfig.for_model(architecture, **small, **heads, **settings)
        return shares_prefixes(AutoModelForCausalLM.from_config(config))

    assert shares("llama")
    assert shares("qwen2")
    assert not shares("mistral", sliding_window=8)
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    assert not shares("llama", rope_parameters=rope)


def test_it_can_be_switched_off_and_is_recorded(lm: LorafuseLM) -> None:
    for given, expected in ((True, True), ("false", False), (False, False), ("True", True)):
        made = LorafuseLM("base", zoo=lm.zoo.root, device="cpu", prefix_sharing=given)  # type: ignore[arg-type]
        assert made.get_model_info()["lorafuse"]["prefix_sharing"] is expected
    with pytest.raises(LorafuseError, match="option prefix_sharing=maybe .* must be true or false"):
        LorafuseLM("base", zoo=lm.zoo.root, device="cpu", prefix_sharing="maybe")  # type: ignore[arg-type]
    with pytest.raises(LorafuseError, match="Did you mean 'prefix_sharing'"):
        LorafuseLM("base", zoo=lm.zoo.root, device="cpu", prefix_sharig=True)


def test_bf16_shares_within_its_precision(lm: LorafuseLM) -> None:
    half = LorafuseLM("oracle", zoo=lm.zoo.root, device="cpu", dtype="bfloat16", max_length=200)
    assert half.model.dtype == torch.bfloat16
    expected, _, _ = score(half, 4, share=False)
    got, _, _ = score(half, 4, share=True)
    assert got == pytest.approx(expected, rel=0.05)
