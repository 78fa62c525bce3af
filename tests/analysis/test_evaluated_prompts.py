"""What analyses read is what evaluation asks: the same requests, all parts of a joined task, examples, the same cut."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager
from test_conflict_and_oblivion import RIGHT, WRONG, call, put
from tiny import add_adapter, byte_tokenizer, tiny_zoo

from lorafuse_bench.analysis.prompts import contexts, evaluation_prompts, in_turns, with_experts
from lorafuse_bench.mini_world.on_demand import OBLIVION_TASKS, SUITE_TASKS
from lorafuse_bench.tasks.rows import load_task
from lorafuse_bench.tasks.suites import suite as suite_of
from lorafuse_bench.tasks.suites import suite_names
from lorafuse_bench.truncation import truncate
from lorafuse_bench.zoo.manifest import Zoo, embedded_root

MOORE = "moore:d_t=2+d_s=2+reflections=2"


class Listening(LM):
    """Answers nothing and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: dict[int, str] = {}

    def _note(self, requests: list[Instance]) -> None:
        for request in requests:
            self.asked.setdefault(request.doc_id, request.args[0])

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        self._note(requests)
        return [(0.0, False)] * len(requests)

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise NotImplementedError

    def generate_until(self, requests: list[Instance]) -> list[str]:
        self._note(requests)
        return [""] * len(requests)


@pytest.mark.parametrize("key", ["mmlu", "gsm8k_cot", "piqa", "text_story"])
def test_prompts_are_those_that_evaluation_asks(key: str) -> None:
    model, task = Listening(), load_task(f"lorafuse_{key}", "mini")
    manager = TaskManager(include_defaults=False, include_path=str(files("lorafuse_bench.tasks")))
    simple_evaluate(model, tasks=[task], task_manager=manager, bootstrap_iters=0, log_samples=False)
    everything = [model.asked[document] for document in sorted(model.asked)]
    again = load_task(f"lorafuse_{key}", "mini")
    assert contexts(again, len(everything)) == everything
    assert set(contexts(again, 3)) <= set(everything) and len(contexts(again, 3)) == 3


def test_parts_take_turns() -> None:
    assert in_turns(["a", "a", "a", "b", "c", "c"], 4) == [0, 1, 3, 4]
    assert in_turns([None] * 4, 2) == [0, 1]
    task = load_task("lorafuse_mmlu", "mini")
    subjects = [re.search(r"about (.*?)\.\n", text)[1] for text in contexts(task, len(task.parts))]
    assert len(set(subjects)) == len(task.parts) == 57


def test_examples_come_with_the_question() -> None:
    (prompt,) = contexts(load_task("lorafuse_mmlu", "mini"), 1)
    assert prompt.count("\nAnswer:") == 5 + 1


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return add_adapter(tiny_zoo(tmp_path_factory.mktemp("zoo"), experts=0), MOORE)


@pytest.mark.parametrize("max_length", [None, 40])
def test_long_prompts_are_cut_as_everywhere(zoo: Zoo, max_length: int | None) -> None:
    cut = Zoo(zoo.root, zoo.manifest.model_copy(update={"max_length": max_length}))
    fused = with_experts(cut, names=())
    (found,) = evaluation_prompts(fused, ["gsm8k_cot"], "mini", 1)["gsm8k_cot"]
    (text,) = contexts(load_task("lorafuse_gsm8k_cot", "mini"), 1)
    assert found == truncate(byte_tokenizer()(text)["input_ids"], max_length or 512)


def written_by_the_mini_world(suite: str) -> bool:
    """Whether it writes all data sets that the suite's files name."""
    shipped = (embedded_root() / "data").iterdir()
    there = {folder.name for folder in shipped} | {
        task.folder.partition("/")[0] for task in SUITE_TASKS + OBLIVION_TASKS
    }
    texts = (path.read_text() for path in suite_of(suite).files.values())
    named = {hub for text in texts for hub in re.findall(r"\b(?:hub|dataset_path): ([\w./-]+)", text)}
    return {hub.replace("/", "__") for hub in named} <= there


HUB_ALONE = [suite for suite in sorted(suite_names()) if not written_by_the_mini_world(suite)]


def test_some_suites_have_rows_on_the_hub_alone() -> None:
    assert {"flan", "ni42"} <= set(HUB_ALONE) < set(suite_names()) - {"mtl5", "or_mtl", "mini32"}


@pytest.mark.parametrize("suite", HUB_ALONE)
def test_rows_that_the_mini_world_does_not_write_are_one_line(zoo: Zoo, suite: str, tmp_path: Path) -> None:
    arguments = ["--zoo", str(zoo.root), "--data", "mini", "--suites", suite, "--out", str(tmp_path)]
    done = call("routing-weights", *arguments, "--method", MOORE, "--samples", "1")
    assert done.exit_code == 2
    assert "the mini world writes no split" in done.output.splitlines()[-1]


@pytest.mark.parametrize("suite", sorted(set(suite_names()) - set(HUB_ALONE)))
def test_every_analysis_reads_every_suite(zoo: Zoo, suite: str, tmp_path: Path) -> None:
    """At toy size; `latency` gets by with the tasks that fill its batch."""
    common = ["--zoo", str(zoo.root), "--data", "mini", "--suites", suite, "--out", str(tmp_path)]
    routed = [*common, "--method", MOORE, "--samples", "1"]
    for name, arguments in (
        ("routing-weights", routed),
        ("correlation", routed),
        ("latency", [*common, "--rounds", "1", "--batch-size", "2"]),
    ):
        done = call(name, *arguments)
        assert done.exit_code == 0, done.output
        written: Any = json.loads((tmp_path / f"{name}.json").read_text())
        assert name == "latency" or set(written["tasks"]) == set(suite_of(suite).tasks)
    losses = suite_of(suite).kind == "loss"
    for label, score in (("base", WRONG), (MOORE, RIGHT)):
        values = [[2.0, 3.0], [3.0, 4.0]] if losses else score
        put(tmp_path / "results", label, suite, dict.fromkeys(suite_of(suite).tasks, values), losses=losses)
    for name in ("conflict", "oblivion"):
        done = call(name, str(tmp_path / "results"), "--suite", suite, "--out", str(tmp_path))
        if losses:
            assert done.exit_code == 2
            assert f"suite '{suite}' is of losses, and this analysis compares scores." in done.output
            continue
        assert done.exit_code == 0, done.output
        assert MOORE in json.loads((tmp_path / f"{name}.json").read_text())["methods"]


def test_suites_of_every_kind_go_together(zoo: Zoo, tmp_path: Path) -> None:
    arguments = ["--zoo", str(zoo.root), "--data", "mini", "--method", MOORE, "--samples", "2"]
    done = call("correlation", *arguments, "--suites", "piqa/boolq,or_mtl", "--out", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "correlation.json").read_text())["tasks"] == [
        "boolq",
        "piqa",
        *suite_of("or_mtl").tasks,
    ]
