"""Training rows: the papers' prompts word for word, and the same text that evaluation uses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from handmade import DATASETS
from handmade_labels import FIRST_LABEL_ROWS
from real_samples import shared_data

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.tasks.rows import Row, load_task, training_rows
from lorafuse_bench.tasks.suites import suites

UNTRAINED = sorted({key for suite in suites() if suite.kind == "oblivion" for key in suite.tasks})
LABELS = sorted({key for suite in suites() for key, task in suite.tasks.items() if task.beside})
TRAINED = [key for key in DATASETS if key not in UNTRAINED]
FIRST_ROWS = {
    "cnn_dailymail": (
        "The mill burned down. Nobody was hurt.\nSummarization:",
        " Mill burned down . Nobody hurt .",
    ),
    "wmt14_en_de": (
        "The house is very small and old.\nTranslation from English to German:",
        " Das Haus ist sehr klein und alt.",
    ),
    "squad": ("Context:\nThe Denver Broncos won.\nQuestion:\nWho won?\nAnswer:", " Denver Broncos"),
    "sst2": ("a charming journey . \nSentiment:", " positive"),
    "mnli": ("Premise:\nHe sleeps.\nHypothesis:\nHe is awake.\nRelationship:", " contradiction"),
    "paws": ("She was born in Rome and died there .\nParaphrasing:", " Born in Rome , she died there ."),
    "piqa": ("open a jar\nSolution 1:\ntwist the lid\nSolution 2:\npaint the lid\nCorrect Solution:", " 1"),
    "gsm8k": ("Question:\n2 + 3?\nReasoning:", " 2 + 3 = <<2+3=5>>5 #### 5"),
    "dialogue": (
        "Dialogue:\nUser: I am hungry.\nAssistant: Where are you?\nUser: In Köln.\nAssistant:",
        " Try the Früh.",
    ),
    **FIRST_LABEL_ROWS,
}


@pytest.mark.parametrize("key", TRAINED)
def test_first_row(key: str, handmade_data: Path) -> None:
    assert training_rows(key, str(handmade_data))[0] == Row(*FIRST_ROWS[key], doc_id=0)


def test_paws_keeps_paraphrases_only_and_numbers_them_anew(handmade_data: Path) -> None:
    rows = training_rows("paws", str(handmade_data))
    assert [(row.doc_id, row.target) for row in rows] == [
        (0, " Born in Rome , she died there ."),
        (1, " In Bonn , two men met ."),
    ]


def test_dialogue_without_a_reply_is_left_out(handmade_data: Path) -> None:
    assert [row.target for row in training_rows("dialogue", str(handmade_data))] == [
        " Try the Früh.",
        " Hello, how can I help?",
    ]


def test_a_target_that_looks_like_a_list_stays_text(handmade_data: Path) -> None:
    assert training_rows("wmt14_en_de", str(handmade_data))[2].target == " [1]"


def test_limit(handmade_data: Path) -> None:
    everything = list(training_rows("sst2", str(handmade_data)))
    assert list(training_rows("sst2", str(handmade_data), limit=2)) == everything[:2]
    assert list(training_rows("sst2", str(handmade_data), limit=99)) == everything
    with pytest.raises(LorafuseError, match="limit 0"):
        training_rows("sst2", str(handmade_data), limit=0)


def test_unknown_task(handmade_data: Path) -> None:
    with pytest.raises(LorafuseError, match=r"unknown task 'sst'\. Did you mean 'sst2'"):
        training_rows("sst", str(handmade_data))


@pytest.mark.parametrize("key", TRAINED)
def test_rows_are_what_evaluation_asks(key: str, handmade_data: Path) -> None:
    """prompt + target of a row is the context + continuation of lm-eval's own request."""
    task = load_task(f"lorafuse_{key}", str(handmade_data))
    task.set_config(key="num_fewshot", value=0)
    task.build_all_requests(limit=None, rank=0, world_size=1)
    rows = training_rows(key, str(handmade_data), split=DATASETS[key][1])
    assert [request.args[0] for request in task.instances] == [row.prompt for row in rows]
    if key == "dialogue":
        assert [request.args[1] for request in task.instances] == [row.target for row in rows]


@pytest.mark.parametrize("key", LABELS)
def test_option_continuations_are_the_targets_of_training(key: str, handmade_data: Path) -> None:
    """The option leaf scores " positive" after the prompt that training ends in " positive"."""
    task = load_task(f"lorafuse_{key}_options", str(handmade_data))
    task.set_config(key="num_fewshot", value=0)
    task.build_all_requests(limit=None, rank=0, world_size=1)
    asked = [request.args for request in task.instances]
    rows = training_rows(key, str(handmade_data), split=DATASETS[key][1])
    assert all(asked.count((row.prompt, row.target)) == 1 for row in rows)
    assert len(asked) == sum(len(task.doc_to_choice(doc)) for doc in task.test_docs())


@pytest.mark.parametrize("key", TRAINED)
def test_real_rows_have_one_line_targets(key: str) -> None:
    for row in training_rows(key, str(shared_data()), limit=20):
        assert row.target == " " + " ".join(row.target.split()), row
        assert row.prompt.endswith(":"), row
        assert json.dumps([row.prompt, row.target])


def test_real_piqa_trains_and_evaluates_on_disjoint_rows() -> None:
    source = str(shared_data())
    task = load_task("lorafuse_piqa", source)
    trained = {row.prompt for row in training_rows("piqa", source)}
    evaluated = {task.doc_to_text(doc) for doc in task.test_docs()}
    assert task.dataset.provenance == {"validation": "ybisk__piqa/plain_text/validation_standin.parquet"}
    assert not trained & evaluated


@pytest.mark.parametrize("key", UNTRAINED)
def test_nothing_is_trained_on_a_task_of_oblivion(key: str) -> None:
    with pytest.raises(LorafuseError, match=f"'{key}' is for measuring what a model forgets"):
        training_rows(key, "mini")
