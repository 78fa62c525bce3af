"""The lm-eval model: options, mistakes, mixed requests, provenance."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lm_eval.api.instance import Instance
from tiny import add_router, tiny_model, tiny_zoo, write_adapter

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import sha256_file
from lorafuse_bench.fusion import registry
from lorafuse_bench.layers import FusedModule
from lorafuse_bench.model_wrappers.hf import LorafuseLM
from lorafuse_bench.zoo.index import index_adapters
from lorafuse_bench.zoo.manifest import Zoo


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return add_router(tiny_zoo(tmp_path_factory.mktemp("zoo"), mixed=True))


def make(zoo: Zoo, method: str = "base", **options: object) -> LorafuseLM:
    return LorafuseLM(method, zoo=zoo.root, batch_size=3, device="cpu", **options)  # type: ignore[arg-type]


def generation(task: str, context: str) -> Instance:
    settings = {"until": ["<never>"], "max_gen_toks": 4, "do_sample": False}
    return Instance(
        request_type="generate_until", doc={}, arguments=(context, settings), idx=0, metadata=(task, 0, 1)
    )


def test_options_reach_the_method_and_the_model(zoo: Zoo) -> None:
    lm = make(zoo, "moa", decision="vote", max_length=100)
    assert lm.fused.method is not None
    assert lm.fused.method.label() == "moa:decision=vote"
    assert lm.max_length == 100


def test_names_that_lm_eval_takes_for_numbers_are_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = tiny_zoo(tmp_path / "2026")
    (zoo.root / "experts" / "sst2").rename(zoo.root / "experts" / "7")
    index_adapters(zoo.root, str(zoo.root / "base"), tasks={"7": ["sst2"]})
    monkeypatch.chdir(tmp_path)
    lm = LorafuseLM.create_from_arg_string("method=oracle,expert=7,zoo=2026,experts=7", {"device": "cpu"})
    assert lm.fused.pool.names == ("7",) and lm.zoo.root.name == "2026"


def test_the_cuda_that_lm_eval_asks_for_falls_back_to_the_cpu(zoo: Zoo) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    for device in ("cuda", "cuda:0"):
        lm = LorafuseLM("base", zoo=zoo.root, device=device)
        assert lm.device.type == "cpu"


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("mao", {}, "unknown method 'mao'. Did you mean 'moa'"),
        ("moa", {"descision": "vote"}, "unknown option 'descision' .* Did you mean 'decision'"),
        ("concat", {"rank": 3}, "unknown option 'rank' .*method 'concat'"),
        ("moa", {"experts": "sst2/mnil"}, "unknown expert .*'mnil'.* Did you mean 'mnli'"),
        (
            "moa",
            {"pool": "mean"},
            "no fit of method 'moa:pooling=mean' .*lorafuse fit moa:pooling=mean --suite",
        ),
        (
            "moa",
            {"training": "joint"},
            "no fit of method 'moa:training=joint' .*lorafuse train router --training joint",
        ),
        ("svd", {"rank": 1000}, "rank=1000 exceeds"),
    ],
)
def test_mistakes_are_one_line(zoo: Zoo, method: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(LorafuseError, match=message) as error:
        make(zoo, method, **options)
    assert "\n" not in str(error.value)


def test_missing_zoo_and_broken_manifest(tmp_path: Path) -> None:
    with pytest.raises(LorafuseError, match="zoo '.*nowhere' not found"):
        LorafuseLM("base", zoo=tmp_path / "nowhere")
    (tmp_path / "manifest.json").write_text('{"name": 3}')
    with pytest.raises(LorafuseError, match=r"manifest.json: name: Input should be a valid string"):
        LorafuseLM("base", zoo=tmp_path)


def test_adapter_of_another_shape_is_refused(tmp_path: Path) -> None:
    zoo = tiny_zoo(tmp_path)
    wide = tiny_model(layers=5)
    write_adapter(tmp_path / "experts" / "sst2", wide, ("q_proj",))
    entry = zoo.manifest.experts[0].model_copy(
        update={"sha256": sha256_file(tmp_path / "experts/sst2/adapter_model.safetensors")}
    )
    Zoo(tmp_path, zoo.manifest.model_copy(update={"experts": (entry,)})).save()
    with pytest.raises(
        LorafuseError, match="adapter 'sst2' updates model.layers.3.* which the base model does not"
    ):
        LorafuseLM("base", zoo=tmp_path)


def test_one_prompt_of_two_tasks_gets_two_experts(zoo: Zoo) -> None:
    """lm-eval hands over mixed tasks; equal prompts must not share an expert."""
    lm = make(zoo, "oracle")
    together = [generation(f"lorafuse_{t}", "The same:") for t in ("sst2", "mnli", "squad", "sst2")]
    got = lm.generate_until(together, disable_tqdm=True)
    alone = [lm.generate_until([request], disable_tqdm=True)[0] for request in together]
    assert got == alone
    assert len(set(got)) == 3


def test_options_leaf_uses_its_tasks_expert(zoo: Zoo) -> None:
    lm = make(zoo, "oracle")
    scores = []
    for task in ("lorafuse_sst2", "lorafuse_sst2_options", "lorafuse_mnli"):
        request = Instance(
            request_type="loglikelihood", doc={}, arguments=("x:", " y"), idx=0, metadata=(task, 0, 1)
        )
        scores.append(lm.loglikelihood([request], disable_tqdm=True)[0][0])
    assert scores[0] == scores[1] != scores[2]


def test_oracle_refuses_a_task_without_expert(zoo: Zoo) -> None:
    with pytest.raises(LorafuseError, match="no expert for task 'arc_easy'"):
        make(zoo, "oracle").generate_until([generation("arc_easy", "x:")], disable_tqdm=True)


@pytest.mark.parametrize("method", ["moa", "base", "ensemble"])
def test_long_prompts_lose_their_middle(zoo: Zoo, method: str) -> None:
    """Of 36 tokens (a byte each) that fit beside an answer of four, nine are the prompt's last."""
    lm = make(zoo, method, max_length=40)
    text = "".join(chr(32 + i % 90) for i in range(300))
    long, short = (generation("lorafuse_sst2", prompt) for prompt in (text, text[:27] + text[-9:]))
    other = generation("lorafuse_sst2", text[-36:])
    assert lm.generate_until([long], disable_tqdm=True) == lm.generate_until([short], disable_tqdm=True)
    assert lm.generate_until([long], disable_tqdm=True) != lm.generate_until([other], disable_tqdm=True)


def test_long_contexts_lose_their_middle_and_keep_what_is_scored(zoo: Zoo) -> None:
    lm = make(zoo, "oracle", max_length=40)
    text, continuation = "".join(chr(32 + i % 90) for i in range(300)), " positive"
    room = 41 - len(continuation)  # the last token is not read
    end = -(-room // 4)
    requests = [
        Instance(
            request_type="loglikelihood",
            doc={},
            arguments=(context, continuation),
            idx=0,
            metadata=("lorafuse_sst2", 0, 1),
        )
        for context in (text, text[: room - end] + text[-end:])
    ]
    long, short = lm.loglikelihood(requests, disable_tqdm=True)
    assert long == short


def test_an_answer_takes_half_of_a_short_length_at_most(zoo: Zoo) -> None:
    """512 tokens of answer in a model of 40: 20 are left to the prompt, and the result says so."""
    lm = make(zoo, max_length=40)
    text = "".join(chr(32 + i % 90) for i in range(300))
    request = generation("lorafuse_sst2", text)
    request.arguments = (text, {**request.args[1], "max_gen_toks": 512})
    short = generation("lorafuse_mnli", text[:15] + text[-5:])
    short.arguments = (short.args[0], {**short.args[1], "max_gen_toks": 20})
    got = lm.generate_until([request, short], disable_tqdm=True)
    assert got[0] == got[1]
    assert lm.get_model_info()["lorafuse"]["truncation"]["answers"] == {"sst2": 20}
    lm.use(registry.parse("base"))
    assert lm.record()["truncation"]["answers"] == {}


def test_a_continuation_too_long_for_the_model_is_scored_in_pieces(zoo: Zoo) -> None:
    def scored(context: str, continuation: str) -> Instance:
        return Instance("loglikelihood", {}, (context, continuation), 0, metadata=("lorafuse_sst2", 0, 1))

    lm = make(zoo, "oracle", max_length=40)
    text = "".join(chr(33 + i % 90) for i in range(90))
    whole = lm.loglikelihood([scored("context:", text)], disable_tqdm=True)[0]
    parts = [scored("context:" + text[:i], text[i : i + 20]) for i in range(0, 90, 20)]
    assert whole[0] == pytest.approx(sum(x for x, _ in lm.loglikelihood(parts, disable_tqdm=True)), abs=1e-4)


def test_no_room_at_all_is_said_at_once(zoo: Zoo) -> None:
    with pytest.raises(LorafuseError, match="length of 12 tokens holds no prompt.* 16 or more"):
        make(zoo, max_length=12)


def test_the_length_is_the_zoos_unless_told_otherwise_and_never_over_the_bases(tmp_path: Path) -> None:
    zoo = tiny_zoo(tmp_path)
    Zoo(tmp_path, zoo.manifest.model_copy(update={"max_length": 48})).save()
    assert make(zoo).max_length == 48
    assert make(zoo, max_length="40").max_length == 40
    assert make(zoo, max_length=10**6).max_length == 512
    info = make(zoo).get_model_info()["lorafuse"]
    assert info["max_length"] == 48
    assert info["truncation"] == {"rule": "middle", "length": 48, "answers": {}}


def test_experts_subset_and_switching_in_place(zoo: Zoo) -> None:
    lm = make(zoo, "concat", experts="sst2/squad")
    assert lm.fused.pool.names == ("sst2", "squad")
    weights = {k: v.clone() for k, v in lm.model.state_dict().items()}
    for spec in ("svd", "moa", "oracle", "concat"):
        lm.use(registry.parse(spec))
    after = lm.model.state_dict()
    assert weights.keys() == after.keys()
    assert all(torch.equal(weights[k], after[k]) for k in weights)
    lm.use(registry.parse("base"))
    assert not any(isinstance(m, FusedModule) for m in lm.model.modules())
    assert lm.fused.extra_parameters == 0


def test_extra_parameters_count_experts_and_routers(zoo: Zoo) -> None:
    lm = make(zoo, "concat")
    adapters = sum(a.numel() + b.numel() for e in lm.fused.pool.experts for a, b in e.factors.values())
    # Mixed ranks: concat stores them padded to the largest.
    padded = sum(s.A.numel() + s.B.numel() for s in lm.fused.pool.modules.values())
    assert lm.fused.extra_parameters == padded >= adapters
    lm.use(registry.parse("oracle"))
    oracle = lm.fused.extra_parameters
    lm.use(registry.parse("moa"))
    assert lm.fused.extra_parameters - oracle == 3 * (16 * 32 + 16 + 3 * 16 + 3)


def test_provenance_is_in_the_model_info(zoo: Zoo) -> None:
    info = make(zoo, "moa", data="mini").get_model_info()["lorafuse"]
    assert info["method"]["options"] == {
        "fitted_on": None,
        "decision": "last",
        "pooling": "last",
        "training": "post_hoc",
    }
    assert info["zoo"]["sha256"] == zoo.sha256()
    assert info["data"] == {"source": "mini", "splits": {}, "revisions": {}}
    assert {expert["name"] for expert in info["experts"]} == {"sst2", "mnli", "squad"}
    assert info["artefacts"][0]["sha256"] == zoo.manifest.artefacts[0].sha256
    assert str(zoo.root) not in json.dumps(info)


def test_merge_before_warns_on_independent_initialisation(zoo: Zoo) -> None:
    with pytest.warns(UserWarning, match="independent initialisations"):
        make(zoo, "weight_sum")


def test_what_transformers_takes_passes_through(zoo: Zoo) -> None:
    lm = make(
        zoo, "base", attn_implementation="eager", rope_parameters={"rope_type": "default", "rope_theta": 5.0}
    )
    assert lm.model.config._attn_implementation == "eager"
    assert lm.model.config.rope_parameters["rope_theta"] == 5.0


@pytest.mark.parametrize(
    ("method", "option", "close"),
    [
        ("base", "attn_implementatoin", "attn_implementation"),
        ("moa:decision=vote", "max_lenght", "max_length"),
        ("base", "pretrained", ""),
    ],
)
def test_typing_mistakes_in_options_are_still_caught(zoo: Zoo, method: str, option: str, close: str) -> None:
    with pytest.raises(LorafuseError, match=f"unknown option '{option}'.*{close}"):
        make(zoo, method, **{option: "x"})


@pytest.mark.parametrize("method", ["arrow", "spectr", "arrow:merge=before", "spectr:merge=two_step"])
def test_a_default_number_of_experts_is_at_most_so_many(zoo: Zoo, method: str) -> None:
    """Of three experts all are mixed; four asked for are refused."""
    name, _, rest = method.partition(":")
    options = f"+{rest}" if rest else ""
    lm = make(zoo, method)
    assert lm.fused.method is not None
    assert lm.fused.method.label() == method
    request = Instance("loglikelihood", {}, ("x:", " y"), 0, metadata=("lorafuse_sst2", 0, 1))
    by_default = lm.loglikelihood([request], disable_tqdm=True)
    lm.use(registry.parse(f"{name}:k=3{options}"))
    assert lm.loglikelihood([request], disable_tqdm=True) == by_default
    with pytest.raises(LorafuseError, match="k=4 must be between 1 and the number of experts, 3"):
        lm.use(registry.parse(f"{name}:k=4{options}"))


def test_a_model_that_gives_nan_has_no_score(zoo: Zoo) -> None:
    lm = make(zoo)
    with torch.no_grad():
        next(iter(lm.model.parameters()))[:] = torch.nan
    scored = Instance("loglikelihood", {}, ("It is", " good"), 0, metadata=("sst2", 0, 1))
    for ask, request in ((lm.loglikelihood, scored), (lm.generate_until, generation("sst2", "It is"))):
        with pytest.raises(LorafuseError, match=r"gives NaN.* --dtype bfloat16"):
            ask([request], disable_tqdm=True)  # type: ignore[operator]


@pytest.mark.parametrize(
    "template", ["{{ ''.__class__.__mro__ }}", "{% for %}", "{{ raise_exception('no') }}"]
)
def test_a_chat_template_that_cannot_be_filled_in_is_refused(zoo: Zoo, template: str) -> None:
    lm = make(zoo)
    lm.tokenizer.chat_template = template
    with pytest.raises(LorafuseError, match=r"chat template of base 'tiny' cannot be used: \w+: "):
        lm.apply_chat_template([{"role": "user", "content": "a"}])


def test_a_tokenizer_that_cannot_encode_is_refused(tmp_path: Path) -> None:
    zoo = tiny_zoo(tmp_path)
    path = tmp_path / "base" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": "many"}))
    with pytest.raises(LorafuseError, match=r"the base in .*base cannot be loaded: "):
        make(zoo)


def test_a_token_that_the_base_has_not_is_refused(zoo: Zoo) -> None:
    lm = make(zoo)
    lm.tokenizer.add_tokens(["<another>"])
    lm.loglikelihood([Instance("loglikelihood", {}, ("It", " is"), 0, metadata=("sst2", 0, 1))])
    with pytest.raises(
        LorafuseError, match=r"the tokenizer of base 'tiny' makes token \d+, and the base has 257"
    ):
        lm.generate_until([generation("sst2", "It is <another>")])
