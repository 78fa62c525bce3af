"""Settings of generation that mean nothing are one line, whoever gave them; an empty prompt is one token."""

from __future__ import annotations

from typing import Any

import pytest
from lm_eval.api.instance import Instance
from tiny import tiny_zoo

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion import registry
from lorafuse_bench.model_wrappers.hf import LorafuseLM

GREEDY = {"until": ["<never>"], "max_gen_toks": 4, "do_sample": False}


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LorafuseLM:
    return LorafuseLM("base", zoo=tiny_zoo(tmp_path_factory.mktemp("zoo")).root, batch_size=3, device="cpu")


def write(lm: LorafuseLM, *prompts: str, **settings: Any) -> list[str]:
    requests = [
        Instance("generate_until", {}, (prompt, GREEDY | settings), i, metadata=("lorafuse_sst2", i, 1))
        for i, prompt in enumerate(prompts)
    ]
    return lm.generate_until(requests, disable_tqdm=True)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"temprature": 0.7}, "unknown generation setting 'temprature'. Did you mean 'temperature'?"),
        ({"num_return_sequences": 2}, "num_return_sequences=2: an answer is one text."),
        ({"return_dict_in_generate": True}, "return_dict_in_generate=True: an answer is one text."),
        ({"do_sample": True, "temperature": -1}, "generation settings do_sample=True, temperature=-1: "),
        ({"do_sample": True, "top_k": -3}, "generation settings do_sample=True, top_k=-3: "),
        ({"num_beams": "two"}, "num_beams=two: "),
        ({"max_gen_toks": -2}, "max_gen_toks=-2: an answer has at least one token."),
        ({"max_gen_toks": "many"}, "generation settings: "),
        ({"temperature": None}, "generation settings: "),
        ({"do_sample": "no"}, "do_sample=no: say true or false."),
        ({"do_sample": 1}, "do_sample=1: say true or false."),
    ],
)
def test_a_setting_that_means_nothing_is_named(lm: LorafuseLM, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(LorafuseError) as error:
        write(lm, "a fine film", **settings)
    assert said in str(error.value)
    assert str(error.value).endswith("Correct --gen-kwargs, or the task's generation_kwargs.")
    assert "\n" not in str(error.value)


def test_settings_that_transformers_takes_are_used(lm: LorafuseLM) -> None:
    assert write(lm, "a fine film", num_beams=2, num_return_sequences=1)
    assert write(lm, "a fine film", do_sample=True, temperature=0.7, top_k=1) == write(lm, "a fine film")


def test_a_bug_is_not_taken_for_a_setting(lm: LorafuseLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**settings: Any) -> None:
        raise ValueError("ours")

    monkeypatch.setattr(lm.model, "generate", broken)
    with pytest.raises(ValueError, match="ours"):
        write(lm, "a fine film")


@pytest.mark.parametrize("method", ["base", "oracle", "ensemble"])
def test_an_empty_prompt_is_the_token_that_texts_begin_with(lm: LorafuseLM, method: str) -> None:
    lm.use(registry.parse(method))
    begin = lm.tok_decode([lm.prefix_token_id], skip_special_tokens=False)
    alone, beside = write(lm, ""), write(lm, "", "a fine film")
    assert alone == beside[:1] == write(lm, begin)
