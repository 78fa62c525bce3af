"""or_mtl: lm-eval's own tasks on our rows, and that right answers score 1 and wrong ones 0."""

from __future__ import annotations

import ast
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import lm_eval
import pyarrow.parquet as parquet
import pytest
from datasets import Dataset
from datasets.exceptions import DatasetNotFoundError
from knowing import Knowing
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from real_samples import shared_data

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.statistics import stats
from lorafuse_bench.mini_world.on_demand import OBLIVION_TASKS, generated
from lorafuse_bench.tasks import data
from lorafuse_bench.tasks.borrowed import PART, THEIRS
from lorafuse_bench.tasks.docs import gpqa_options
from lorafuse_bench.tasks.metrics import ifeval
from lorafuse_bench.tasks.rows import load_task, training_rows
from lorafuse_bench.tasks.suites import suite

LEAVES = suite("or_mtl").leaves


@pytest.fixture(autouse=True)
def _consent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")
    monkeypatch.delenv("LORAFUSE_DATA", raising=False)


@cache
def manager(source: str = "mini") -> TaskManager:
    return TaskManager(
        include_defaults=False, include_path=str(files("lorafuse_bench.tasks")), metadata={"data": source}
    )


@cache
def loaded(name: str, source: str = "mini") -> Any:
    """A task or group, read once for all tests."""
    found = manager(source).load([name])
    return found["groups"][name] if found["groups"] else found["tasks"][name]


def evaluate(model: Knowing, tasks: list[Any], **kwargs: Any) -> dict[str, Any]:
    found = lm_eval.simple_evaluate(
        model, tasks=tasks, task_manager=manager(), confirm_run_unsafe_code=True, bootstrap_iters=0, **kwargs
    )
    assert found is not None
    return found


def scores(found: dict[str, Any]) -> dict[str, float]:
    return {
        key: found["results"][task.task][f"{task.metric},none"]
        for key, task in suite("or_mtl").tasks.items()
        if task.task in found["results"]
    }


# One document of each of BBH's forms, and some of the others.
SOME = {leaf: [0, 1, 2] for leaf in LEAVES} | {
    "lorafuse_bbh": list(range(0, 135, 5)),
    "lorafuse_mmlu": [0, 141, 284],
    "lorafuse_ifeval": list(range(12)),
}


@pytest.mark.parametrize("samples", [SOME, pytest.param(None, marks=pytest.mark.slow)], ids=["some", "all"])
def test_right_answers_score_one_and_wrong_ones_zero_on_the_mini_world(samples: Any) -> None:
    right = evaluate(Knowing(), [loaded("or_mtl")], samples=samples)
    assert scores(right) == dict.fromkeys(suite("or_mtl").tasks, 1.0)
    assert right["results"]["or_mtl"]["score,none"] == 1.0
    wrong = evaluate(Knowing(lambda text: "", shift=1), [loaded("or_mtl")], samples=samples)
    assert scores(wrong) == dict.fromkeys(suite("or_mtl").tasks, 0.0)
    assert wrong["results"]["or_mtl"]["score,none"] == 0.0


def test_prompts_are_lm_evals_own() -> None:
    """Description, shots and stops of two parts of each joined task, against their own files."""
    model = Knowing()
    evaluate(model, [loaded("or_mtl")], samples={leaf: SOME[leaf] for leaf in LEAVES})
    for file, questions in (
        ("mmlu/default/mmlu_abstract_algebra.yaml", "Answer:"),
        ("mmlu/default/mmlu_world_religions.yaml", "Answer:"),
        ("bbh/zeroshot/word_sorting.yaml", "Q:"),
        ("bbh/zeroshot/snarks.yaml", "Q:"),
    ):
        theirs = load_yaml(THEIRS / file, resolve_func=False)
        asked = [r for r in model.asked if r.doc.get(PART) == theirs["dataset_name"]]
        shots = 5 if file.startswith("mmlu") else 0
        for request in asked:
            assert request.args[0].startswith(theirs["description"])
            assert request.args[0].count(questions) == shots + 1
            if shots == 0:
                assert request.args[1]["until"] == theirs["generation_kwargs"]["until"]
        assert asked


def test_shots_are_those_of_the_paper() -> None:
    tasks = {task.task_name: task for task in loaded("or_mtl").get_all_tasks()}
    assert [tasks[leaf].config.num_fewshot or 0 for leaf in LEAVES] == [5, 0, 0, 0, 0, 3, 8]


def test_joined_tasks_have_all_of_their_parts() -> None:
    tasks = {task.task_name: task for task in loaded("or_mtl").get_all_tasks()}
    assert len(tasks["lorafuse_mmlu"].parts) == 57
    assert len(tasks["lorafuse_bbh"].parts) == 27


def test_results_carry_lm_evals_version_of_the_task() -> None:
    assert load_task("lorafuse_gpqa", "mini").VERSION == 2.2
    assert load_task("lorafuse_ifeval", "mini").config.metadata["data"] == "mini"


def test_options_of_gpqa_are_the_same_in_every_run_and_in_no_fixed_place() -> None:
    docs = generated("Idavidrein__gpqa/gpqa_main", "train", 0)
    once, again = gpqa_options(docs), gpqa_options(docs.select(range(10, 20)))
    assert once.to_list()[10:20] == again.to_list()
    for doc in once:
        right = doc[f"choice{'ABCD'.index(doc['answer'][1]) + 1}"]
        assert right == doc["Correct Answer"]
        assert {doc[f"choice{i}"] for i in range(1, 5)} >= {doc[f"Incorrect Answer {i}"] for i in range(1, 4)}
    assert set(once["answer"]) == {"(A)", "(B)", "(C)", "(D)"}


def test_instruction_level_is_over_instructions_and_as_lm_eval_has_it() -> None:
    docs = generated("google__IFEval/default", "train", 0).to_list()
    from lm_eval.tasks.ifeval import utils

    answers = [["one, two"], ['"three"'], ["* four five six seven eight\n"]] * 10
    pairs = list(zip(docs, answers, strict=False))
    ours = [ifeval.score_instructions(doc, answer) for doc, answer in pairs]
    theirs = [utils.process_results(doc, answer) for doc, answer in pairs]
    for level in ("strict", "loose"):
        name = f"inst_level_{level}_acc"
        value = utils.agg_inst_level_acc([each[name] for each in theirs])
        assert 0 < value < 1
        assert ifeval.share([each[name] for each in ours]) == pytest.approx(value)
        assert sum(each[name][1] for each in ours) == sum(len(doc["instruction_id_list"]) for doc, _ in pairs)
        assert [each[f"prompt_level_{level}_acc"] for each in ours] == [
            each[f"prompt_level_{level}_acc"] for each in theirs
        ]
    items = [each["inst_level_strict_acc"] for each in ours]
    assert ifeval.share_stderr(items) == stats.statistic(items).estimate().se
    assert ifeval.share_stderr(items[:1]) == "N/A"


def test_an_instruction_whose_data_is_missing_is_refused_before_the_model_writes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import nltk

    def missing(*_: object, **__: object) -> bool:
        raise LookupError

    ifeval._punkt.cache_clear()
    monkeypatch.setattr(nltk.data, "find", missing)
    monkeypatch.setattr(nltk, "download", lambda *_, **__: False)
    doc = {"prompt": "two sentences", "instruction_id_list": ["length_constraints:number_sentences"]}
    with pytest.raises(LorafuseError, match="punkt_tab.*python -m nltk.downloader punkt_tab"):
        ifeval.prompt(doc)
    assert ifeval.prompt({**doc, "instruction_id_list": ["punctuation:no_comma"]}) == "two sentences"
    ifeval._punkt.cache_clear()


def test_a_task_of_oblivion_is_not_trained_on() -> None:
    for key in suite("or_mtl").tasks:
        with pytest.raises(LorafuseError, match=f"'{key}' is for measuring what a model forgets"):
            training_rows(key, "mini")


# --- the hub --------------------------------------------------------------------------------------


def test_the_hub_is_asked_for_the_right_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: set[tuple[str, str | None, str]] = set()

    def hub(path: str, name: str | None, *, revision: str | None, split: str) -> Dataset:
        calls.add((path, name, split))
        return generated(f"{path.replace('/', '__')}/{name or 'default'}", split, 0)

    monkeypatch.setattr(data, "_of_hub", data._of_hub.__wrapped__)  # nothing opened is kept for other tests
    monkeypatch.setattr(data, "load_dataset", hub)
    monkeypatch.setattr(data, "resolve_source", lambda *_: "hub")
    for leaf in LEAVES[:-1]:
        task = load_task(leaf, "hub")
        assert len(task.eval_docs) > 0
        if task.config.num_fewshot:
            for doc in task.eval_docs:  # the rows of examples are read where they are shown
                task.fewshot_context(doc, task.config.num_fewshot)
    wanted = {
        (task.hub, None if task.config == "default" else task.config, task.evaluation)
        for task in OBLIVION_TASKS
    }
    shots = {call for call in calls if call[2] in ("dev", "prompt")}
    assert calls - shots == wanted
    assert len(shots) == 57 + 1


def test_a_gated_dataset_says_how_to_get_access(monkeypatch: pytest.MonkeyPatch) -> None:
    def gated(*_: object, **__: object) -> Dataset:
        raise DatasetNotFoundError(
            "Dataset 'Idavidrein/gpqa' is a gated dataset on the Hub. You must be authenticated to access it."
        )

    monkeypatch.setattr(data, "_of_hub", data._of_hub.__wrapped__)  # nothing opened is kept for other tests
    monkeypatch.setattr(data, "load_dataset", gated)
    with pytest.raises(
        LorafuseError,
        match=r"'Idavidrein/gpqa' \(gpqa_main, split train\).*is a gated dataset.*"
        r"Accept its conditions at https://huggingface.co/datasets/Idavidrein/gpqa and log in",
    ) as found:
        load_task("lorafuse_gpqa", "hub")
    assert "\n" not in str(found.value)


# --- a directory ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real samples, with generated rows of the one dataset that may not be among them."""
    root = tmp_path_factory.mktemp("directory")
    for folder in shared_data().iterdir():
        (root / folder.name).symlink_to(folder)
    gpqa = root / "Idavidrein__gpqa" / "gpqa_main"
    gpqa.mkdir(parents=True)
    rows = generated("Idavidrein__gpqa/gpqa_main", "train", 0)
    parquet.write_table(rows.data.table, gpqa / "train.parquet")
    return root


def test_right_answers_to_real_rows_score_one(directory: Path) -> None:
    model = Knowing()
    tasks = [loaded(leaf, str(directory)) for leaf in LEAVES if "ifeval" not in leaf]
    found = evaluate(model, tasks, limit=3)
    assert scores(found) == dict.fromkeys((key for key in suite("or_mtl").tasks if key != "ifeval"), 1.0)


def test_real_instructions(directory: Path) -> None:
    rows = loaded("lorafuse_ifeval", str(directory)).eval_docs
    assert sum(map(len, rows["instruction_id_list"])) == 834
    checked = ifeval.score_instructions(rows[0], ["no comma, here"])
    assert checked["inst_level_strict_acc"] == [0, 3]


def test_a_subject_reads_its_own_rows(directory: Path) -> None:
    task = loaded("lorafuse_mmlu", str(directory))
    for doc in task.eval_docs:
        assert doc[PART] == doc["subject"]
        task.fewshot_context(doc, task.config.num_fewshot)
    assert task.dataset.provenance == {
        "dev": "cais__mmlu/all/dev.parquet",
        "test": "cais__mmlu/all/test.parquet",
    }
    bbh = loaded("lorafuse_bbh", str(directory))
    assert bbh.dataset.provenance == {"test": "lukaemon__bbh/*/test.parquet"}
    assert len(bbh.eval_docs) == 6511


def test_the_examples_of_mbpp_are_those_that_lm_eval_shows(directory: Path) -> None:
    """lm-eval holds them in a module that fetches a metric when it is imported: here its text is read."""
    module = ast.parse((THEIRS / "mbpp" / "utils.py").read_text())
    function = next(node for node in module.body if getattr(node, "name", "") == "list_fewshot_samples")
    assert isinstance(function, ast.FunctionDef) and isinstance(function.body[0], ast.Return)
    theirs = ast.literal_eval(function.body[0].value)  # type: ignore[arg-type]
    task = loaded("lorafuse_mbpp", str(directory))
    ours = task.examples(task.eval_docs[0], len(theirs))
    assert [task.doc_to_text(doc) + task.doc_to_target(doc) for doc in ours] == [
        task.doc_to_text(doc) + task.doc_to_target(doc) for doc in theirs
    ]


def test_a_directory_without_gpqa_says_so() -> None:
    with pytest.raises(LorafuseError, match="Idavidrein__gpqa/gpqa_main: this data source lacks the dataset"):
        load_task("lorafuse_gpqa", str(shared_data()))
