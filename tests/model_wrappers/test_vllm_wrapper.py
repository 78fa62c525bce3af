"""`lorafuse-vllm` around an engine that is not vLLM: requests, adapters, provenance, faults.

The stand-in runs the very files that vLLM would be given through transformers and PEFT; tests/vllm has the
real one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from agreement import instances
from lm_eval.api.instance import Instance
from peft import PeftModel
from tiny import add_router, tiny_zoo
from transformers import AutoModelForCausalLM

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.model_wrappers import engine
from lorafuse_bench.model_wrappers import vllm as wrapper
from lorafuse_bench.model_wrappers.engine import Answer, Ask, EngineDiedError, Settings, root_cause
from lorafuse_bench.model_wrappers.hf import LorafuseLM
from lorafuse_bench.zoo.manifest import Zoo

METHODS = ("base", "oracle", "moa", "concat", "ties")
Report = Callable[[int, Answer], object]


class StandIn:
    """An engine of transformers and PEFT; dies after `lives` requests."""

    lives = 10**6

    def __init__(self, settings: Settings, log: Path) -> None:
        self.settings = settings
        self.asked = 0
        self.models: dict[int | None, torch.nn.Module] = {}

    def run(self, asks: Sequence[Ask], report: Report = lambda i, a: None) -> list[Answer]:
        answers = []
        for i, ask in enumerate(asks):
            if self.asked == StandIn.lives:
                raise EngineDiedError("vLLM's engine died.")
            self.asked += 1
            answers.append(self._answer(ask))
            report(i, answers[-1])
        return answers

    @torch.no_grad()
    def _answer(self, ask: Ask) -> Answer:
        if ask.adapter not in self.models:
            self.models[ask.adapter] = self._model(ask.adapter)
        model = self.models[ask.adapter]
        ids = torch.tensor([ask.prompt])
        assert ids.shape[1] < self.settings.max_length
        if ask.scored:
            log_p = model(input_ids=ids).logits[0].log_softmax(-1)[-ask.scored - 1 : -1]
            own = log_p.gather(1, ids[0, -ask.scored :, None])
            ranks = (log_p >= own).sum(1)
            return Answer(scores=list(zip(own[:, 0].tolist(), ranks.tolist(), strict=True)))
        length = ask.settings["max_tokens"]
        written = model.generate(input_ids=ids, max_new_tokens=length, do_sample=False)
        return Answer(written[0, ids.shape[1] :].tolist())

    def _model(self, adapter: int | None) -> torch.nn.Module:
        model = AutoModelForCausalLM.from_pretrained(self.settings.model, dtype=torch.float32)
        if adapter is not None:
            model = PeftModel.from_pretrained(model, str(self.settings.adapters[adapter]))
        return model.eval()

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return add_router(tiny_zoo(tmp_path_factory.mktemp("zoo"), mixed=True))


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrapper, "Engine", StandIn)
    monkeypatch.setattr(wrapper, "require_vllm", lambda: None)
    monkeypatch.setattr(wrapper, "engine_options", lambda: {"tensor_parallel_size", "data_parallel_size"})
    monkeypatch.setattr(wrapper, "_vllm_version", lambda: "0")
    monkeypatch.setattr(StandIn, "lives", 10**6)


def make(zoo: Zoo, method: str, **options: object) -> wrapper.LorafuseVLLM:
    return wrapper.LorafuseVLLM(method, zoo=zoo.root, device="cpu", data="mini", **options)  # type: ignore[arg-type]


def rolling(text: str = "A dull film, but for its end. " * 30) -> list[Instance]:
    return [
        Instance(
            request_type="loglikelihood_rolling",
            doc={},
            arguments=(text,),
            idx=0,
            metadata=("lorafuse_mnli", 0, 1),
        )
    ]


@pytest.mark.parametrize("method", METHODS)
def test_all_requests_are_answered_as_by_lorafuse(zoo: Zoo, method: str) -> None:
    served, own = make(zoo, method), LorafuseLM(method, zoo=zoo.root, batch_size=2, device="cpu", data="mini")
    for kind in ("loglikelihood", "generate_until"):
        expected = getattr(own, kind)(instances(kind), disable_tqdm=True)
        got = getattr(served, kind)(instances(kind), disable_tqdm=True)
        if kind == "generate_until":
            assert got == expected
        else:
            assert [x for x, _ in got] == pytest.approx([x for x, _ in expected], abs=1e-4)
            assert [x for _, x in got] == [x for _, x in expected]
    assert served.loglikelihood_rolling(rolling(), disable_tqdm=True) == pytest.approx(
        own.loglikelihood_rolling(rolling(), disable_tqdm=True), abs=1e-3
    )
    assert (served.route_seconds is not None) == (method in ("oracle", "moa"))


def test_only_routing_loads_the_bases_weights(zoo: Zoo) -> None:
    assert make(zoo, "oracle").model.device.type == "meta"
    assert make(zoo, "moa").model.device.type == "cpu"


def test_texts_are_cut_at_the_first_stop_and_long_prompts_lose_their_middle(zoo: Zoo) -> None:
    served, own = (
        make(zoo, "oracle", max_length=40),
        LorafuseLM("oracle", zoo=zoo.root, max_length=40, device="cpu"),
    )
    request = instances("generate_until")[1]
    context, settings = request.args
    short = context[:35]  # a byte a token, beside an answer of five
    request.arguments = (short, settings)
    whole = own.generate_until([request], disable_tqdm=True)[0]
    stop = {**settings, "until": [whole[2:4]]}
    for lm in (served, own):
        request.arguments = (short[:26] + "x" * 100 + short[26:], stop)
        assert lm.generate_until([request], disable_tqdm=True)[0] == whole[:2]


def test_provenance_says_how_it_was_served(zoo: Zoo) -> None:
    info = make(zoo, "svd:rank=3").get_model_info()["lorafuse"]
    assert info["serving"] == {"engine": "vllm", "how": "adapter", "adapters": 1, "max_lora_rank": 8}
    assert info["environment"]["versions"]["vllm"] == "0"
    assert info["method"]["label"] == "svd:rank=3"
    assert str(zoo.root) not in json.dumps(info)


def test_options_reach_the_engine(zoo: Zoo) -> None:
    lm = make(zoo, "oracle", tensor_parallel_size=2)
    arguments = lm.engine.settings.arguments()
    assert arguments["tensor_parallel_size"] == 2
    assert arguments["max_loras"] == 3
    assert arguments["dtype"] == "float32"
    # The tiny model is 512 long; scoring needs room for one token more, and for the one it generates.
    assert arguments["hf_overrides"] == {"max_position_embeddings": arguments["max_model_len"]}


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("arrow", {}, "cannot be served by vLLM"),
        ("oracle", {"tensor_paralel_size": 2}, "Did you mean 'tensor_parallel_size'"),
        ("oracle", {"max_lora_rank": 1}, "over max_lora_rank=1"),
    ],
)
def test_mistakes_are_one_line(zoo: Zoo, method: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(LorafuseError, match=message) as error:
        make(zoo, method, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("settings", [{"num_beams": 2}, {"typical_p": 0.5}])
def test_settings_that_are_not_served_are_named(zoo: Zoo, settings: dict[str, object]) -> None:
    request = instances("generate_until")[0]
    request.arguments = (request.args[0], {**request.args[1], **settings})
    with pytest.raises(LorafuseError, match=next(iter(settings))):
        make(zoo, "base").generate_until([request], disable_tqdm=True)


def test_answers_outlive_the_engine(zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    requests = instances("loglikelihood")
    expected = make(zoo, "oracle").loglikelihood(requests, disable_tqdm=True)
    monkeypatch.setattr(StandIn, "lives", 3)
    with pytest.raises(
        LorafuseError, match=r"engine died\. 3 answers are kept in (\S+)\. Add keep=\1"
    ) as error:
        make(zoo, "oracle").loglikelihood(requests, disable_tqdm=True)
    (rescued,) = tmp_path.iterdir()
    assert rescued.name in str(error.value)
    again = make(zoo, "oracle", keep=rescued)
    assert again.loglikelihood(requests, disable_tqdm=True) == expected
    assert again.engine.asked == 2


def test_without_vllm_the_error_is_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(LorafuseError, match=r"not installed: pip install 'lorafuse-bench\[vllm\]'") as error:
        engine.require_vllm()
    assert "\n" not in str(error.value)


def test_the_cause_is_read_off_the_engines_own_output(tmp_path: Path) -> None:
    log = tmp_path / "vllm.log"
    assert root_cause(log) is None
    log.write_text(
        "(EngineCore pid=2) ERROR [core.py:1] ValueError: To serve at least one request, more KV cache is needed\n"
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n"
    )
    assert root_cause(log) == "ValueError: To serve at least one request, more KV cache is needed"
