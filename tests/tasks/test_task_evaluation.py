"""The suites through lm-eval: a model with known answers, and a tiny Qwen2 under the stock `hf` class."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import sacrebleu
from handmade import PAIRS, REWORDINGS, SUMMARIES
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from real_samples import shared_data
from rouge_score.rouge_scorer import RougeScorer
from tiny import byte_tokenizer, tiny_model

from lorafuse_bench.tasks.rows import training_rows
from lorafuse_bench.tasks.suites import suite as suite_of


class Scripted(LM):
    """Answers from a table of prompts; every continuation costs one nat a character."""

    def __init__(self, answers: dict[str, str]) -> None:
        super().__init__()
        self.answers = answers
        self.asked: list[Instance] = []

    def generate_until(self, requests: list[Instance]) -> list[str]:
        self.asked += requests
        return [self.answers[request.args[0]] for request in requests]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        self.asked += requests
        return [(-float(len(request.args[1])), False) for request in requests]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise AssertionError("no task asks for this")


def evaluate(model: LM, tasks: list[str], source: Path, **kwargs: Any) -> dict[str, Any]:
    manager = TaskManager(
        include_defaults=False,
        include_path=str(files("lorafuse_bench.tasks")),
        metadata={"data": str(source), "method": "moa", "dtype": "float32"},
    )
    found = lm_eval.simple_evaluate(model, tasks=tasks, task_manager=manager, **kwargs)
    assert found is not None
    return found


def oracle_answers(source: Path, suite: str, change: Callable[[str], str] = str) -> dict[str, str]:
    """The right answer to every prompt of a suite, after `change`."""
    evaluation = {"wmt14_en_de": "test", "gsm8k": "test", "mnli": "validation_matched"}
    rows = [
        row
        for key in suite_of(suite).tasks
        for row in training_rows(key, str(source), split=evaluation.get(key, "validation"))
    ]
    return {row.prompt: change(row.target) for row in rows}


def test_the_right_answers_score_one(handmade_data: Path) -> None:
    found = evaluate(Scripted(oracle_answers(handmade_data, "mtl7")), ["mtl7"], handmade_data)
    results = found["results"]
    for name in suite_of("mtl7").leaves:
        if not name.endswith("_options"):
            assert results[name]["score,none"] == pytest.approx(1.0), name
    assert results["mtl5"]["score,none"] == pytest.approx(1.0)
    assert results["mtl7"]["score,none"] == pytest.approx(1.0)


def test_values_equal_those_computed_independently(handmade_data: Path) -> None:
    def spoil(target: str) -> str:
        return target.replace("klein", "gross").replace("Haus.", "").replace("burned", "stood")

    answers = oracle_answers(handmade_data, "mtl7", spoil)
    results = evaluate(Scripted(answers), ["mtl7"], handmade_data)["results"]

    references = [row["translation"]["de"] for row in PAIRS]
    translated = [spoil(text) for text in references]
    expected = sacrebleu.corpus_bleu(translated, [references]).score / 100
    assert expected < 0.95
    translation = results["lorafuse_wmt14_en_de"]
    assert translation["bleu,none"] == translation["score,none"] == pytest.approx(expected)
    assert 0 < translation["bleu_stderr,none"] == translation["score_stderr,none"] < 0.5

    kept = [row["sentence2"] for row in REWORDINGS if row["label"] == 1]
    assert results["lorafuse_paws"]["bleu,none"] == pytest.approx(
        sacrebleu.corpus_bleu([spoil(text) for text in kept], [kept]).score / 100
    )

    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    for name in ("rouge1", "rouge2", "rougeL"):
        values = [
            scorer.score(row["highlights"], spoil(row["highlights"]))[name].fmeasure for row in SUMMARIES
        ]
        assert results["lorafuse_cnn_dailymail"][f"{name},none"] == pytest.approx(sum(values) / len(values))
    assert results["lorafuse_cnn_dailymail"]["rougeL,none"] < 1


def test_group_score_is_the_unweighted_mean_and_ignores_options(handmade_data: Path) -> None:
    answers = oracle_answers(handmade_data, "mtl7", lambda target: target.replace("positive", "great"))
    results = evaluate(Scripted(answers), ["mtl7"], handmade_data)["results"]
    # Two of three reviews are positive; the tasks have different numbers of rows.
    assert (
        results["lorafuse_sst2"]["score,none"] == results["lorafuse_sst2"]["acc,none"] == pytest.approx(1 / 3)
    )
    assert results["mtl5"]["score,none"] == pytest.approx((4 + 1 / 3) / 5)
    assert results["mtl7"]["score,none"] == pytest.approx((6 + 1 / 3) / 7)
    # One nat a character: the shortest word wins, so "neutral" is never right here; "1" and "2" tie.
    assert results["lorafuse_mnli_options"]["acc_options,none"] == 0.0
    assert results["lorafuse_piqa_options"]["acc_options,none"] == 0.5
    assert not any(key.startswith("score") for key in results["lorafuse_sst2_options"])


def test_a_model_that_writes_no_label_gets_zero(handmade_data: Path) -> None:
    answers = oracle_answers(handmade_data, "mtl7", lambda target: "I think it is" + target)
    results = evaluate(Scripted(answers), ["mtl7"], handmade_data)["results"]
    assert [results[f"lorafuse_{key}"]["acc,none"] for key in ("sst2", "mnli", "piqa")] == [0, 0, 0]


def test_proposal_suite_keeps_the_loss_out_of_the_mean(handmade_data: Path) -> None:
    found = evaluate(Scripted(oracle_answers(handmade_data, "mtl_proposal")), ["mtl_proposal"], handmade_data)
    results = found["results"]
    assert results["mtl_proposal"]["score,none"] == pytest.approx(1.0)
    # " Try the Früh." has 14 characters in 15 bytes, " Hello, how can I help?" as many of both.
    expected = (14 / 15 + 1) / 2
    assert results["lorafuse_dialogue"]["nll_per_byte,none"] == pytest.approx(expected)
    assert results["lorafuse_dialogue"]["byte_perplexity,none"] == pytest.approx(math.exp(expected))


def test_requests_are_bounded_greedy_and_zero_shot(handmade_data: Path) -> None:
    model = Scripted(oracle_answers(handmade_data, "mtl7"))
    evaluate(model, ["mtl7"], handmade_data)
    bounds = {
        request.task_name: request.args[1]["max_gen_toks"]
        for request in model.asked
        if request.request_type == "generate_until"
    }
    assert bounds == {
        "lorafuse_cnn_dailymail": 128,
        "lorafuse_wmt14_en_de": 128,
        "lorafuse_squad": 32,
        "lorafuse_sst2": 8,
        "lorafuse_mnli": 8,
        "lorafuse_paws": 64,
        "lorafuse_piqa": 8,
    }
    for request in model.asked:
        if request.request_type == "generate_until":
            assert request.args[1]["until"] == ["\n"]
            assert request.args[1]["do_sample"] is False


def test_samples_and_limit(handmade_data: Path) -> None:
    model = Scripted(oracle_answers(handmade_data, "mtl7"))
    found = evaluate(model, ["lorafuse_wmt14_en_de"], handmade_data, limit=2, log_samples=True)
    assert found["n-samples"]["lorafuse_wmt14_en_de"] == {"original": 3, "effective": 2}
    samples = found["samples"]["lorafuse_wmt14_en_de"]
    assert [sample["doc_id"] for sample in samples] == [0, 1]
    assert all(len(sample["bleu"]) == 10 and sample["doc_hash"] for sample in samples)
    config = found["configs"]["lorafuse_wmt14_en_de"]
    assert (config["dataset_path"], config["dataset_name"]) == ("wmt/wmt14", "de-en")
    assert config["metadata"]["data"] == str(handmade_data)


def test_two_groups_that_share_tasks_are_refused_by_lm_eval(handmade_data: Path) -> None:
    """docs/tasks.md says to ask for mtl7 alone; when this fails, lm-eval has learnt it."""
    with pytest.raises(ValueError, match="Duplicate task"):
        evaluate(Scripted({}), ["mtl5", "mtl7"], handmade_data)


@pytest.mark.parametrize("suite", ["mtl7", "mtl_proposal"])
def test_stock_hf_model(suite: str, handmade_data: Path) -> None:
    model = HFLM(tiny_model(layers=2), tokenizer=byte_tokenizer(), batch_size=4, device="cpu", max_length=512)
    results = evaluate(model, [suite], handmade_data)["results"]
    assert 0 <= results[suite]["score,none"] < 0.5
    if suite == "mtl_proposal":
        assert 1 < results["lorafuse_dialogue"]["nll_per_byte,none"] < 50


def test_real_rows_through_a_random_model() -> None:
    model = HFLM(tiny_model(layers=2), tokenizer=byte_tokenizer(), batch_size=8, device="cpu", max_length=512)
    found = evaluate(model, ["mtl7", "lorafuse_gsm8k", "lorafuse_dialogue"], shared_data(), limit=2)
    effective = {name: count["effective"] for name, count in found["n-samples"].items()}
    assert effective == dict.fromkeys((*suite_of("mtl7").leaves, "lorafuse_gsm8k", "lorafuse_dialogue"), 2)
