"""Suite names, leaf names, and that the YAMLs say the same."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from lm_eval.tasks import TaskManager

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.tasks.rows import load_task
from lorafuse_bench.tasks.suites import (
    LABELS,
    REPRESENTATIVE,
    SUITES,
    leaf_tasks,
    representative,
    suite_tasks,
    task_key,
)

TASKS = Path(str(files("lorafuse_bench.tasks")))


def test_leaves_of_mtl7_in_order() -> None:
    assert leaf_tasks("mtl7") == (
        "lorafuse_cnn_dailymail",
        "lorafuse_wmt14_en_de",
        "lorafuse_squad",
        "lorafuse_sst2",
        "lorafuse_sst2_options",
        "lorafuse_mnli",
        "lorafuse_mnli_options",
        "lorafuse_paws",
        "lorafuse_piqa",
        "lorafuse_piqa_options",
    )


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("lorafuse_sst2", "sst2"),
        ("lorafuse_sst2_options", "sst2"),
        ("lorafuse_wmt14_en_de", "wmt14_en_de"),
        ("arc_easy", "arc_easy"),
        ("many_options", "many_options"),
    ],
)
def test_task_key(name: str, key: str) -> None:
    assert task_key(name) == key


def test_unknown_suite_suggests_the_close_one() -> None:
    with pytest.raises(LorafuseError, match=r"unknown suite 'mtl6'\. Did you mean 'mtl"):
        leaf_tasks("mtl6")


def test_tasks_by_name_are_a_suite_too() -> None:
    assert suite_tasks("piqa/boolq") == ("piqa", "boolq")
    assert leaf_tasks("piqa/boolq")[:2] == ("lorafuse_piqa", "lorafuse_piqa_options")
    for given, message in (
        ("piqa/bolq", r"unknown task 'bolq'\. Did you mean 'boolq'"),
        ("piqa/piqa", "names a task twice"),
    ):
        with pytest.raises(LorafuseError, match=message):
            suite_tasks(given)


def test_group_yamls_hold_the_leaves_of_the_suites() -> None:
    manager = TaskManager(include_defaults=False, include_path=str(TASKS), metadata={"data": "mini"})
    assert set(manager.all_groups) == set(SUITES)
    for suite in SUITES:
        assert set(manager.load([suite])["tasks"]) == set(leaf_tasks(suite))


def test_spectr9_scores_cola_by_accuracy_as_its_paper_does() -> None:
    manager = TaskManager(include_defaults=False, include_path=str(TASKS), metadata={"data": "mini"})
    assert representative("spectr9", "cola") == "acc"
    assert representative("nlu_mtl", "cola") == "mcc"
    assert list(manager.load(["spectr9"])["tasks"]["lorafuse_cola"].higher_is_better()) == ["acc", "score"]


def test_every_yaml_is_indexed_and_no_include_is(handmade_data: Path) -> None:
    manager = TaskManager(include_defaults=False, include_path=str(TASKS))
    files_on_disk = [path for path in TASKS.rglob("*.yaml") if "__pycache__" not in path.parts]
    assert len(manager.all_tasks) == len(files_on_disk)
    assert all(name.startswith("lorafuse_") for name in manager.all_subtasks)


def test_representative_metric_is_reported_with_its_direction() -> None:
    for key, metric in REPRESENTATIVE.items():
        better_up = load_task(f"lorafuse_{key}", "mini").higher_is_better()
        assert better_up[metric] is (key != "dialogue"), key
        assert ("score" in better_up) is (key != "dialogue"), "a loss has no place in the group mean"


def test_options_leaves_report_only_acc_options(handmade_data: Path) -> None:
    for key in sorted(LABELS):
        assert list(load_task(f"lorafuse_{key}_options", str(handmade_data)).higher_is_better()) == [
            "acc_options"
        ]


def test_mtl_proposal_has_the_proposals_tasks() -> None:
    group: dict[str, Any] = yaml.safe_load((TASKS / "groups" / "mtl_proposal.yaml").read_text())
    assert [task_key(name) for name in group["task"]] == list(SUITES["mtl_proposal"])
