"""The suites there are: their tasks, and what their files say of them."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest
from lm_eval.tasks import TaskManager

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.tasks import catalogue
from lorafuse_bench.tasks.facts import Suite
from lorafuse_bench.tasks.loading import load_tasks
from lorafuse_bench.tasks.members import members
from lorafuse_bench.tasks.suites import suite, suite_names, suites, task_key

TASKS = Path(str(files("lorafuse_bench.tasks")))


ELSEWHERE = {"flan", "flan_mbc10", "flan_small", "ni42"}
"""Suites of which the mini world writes no rows."""


def of_mini() -> list[Suite]:
    return [found for found in suites() if found.name not in ELSEWHERE]


def test_leaves_of_mtl7_in_order() -> None:
    assert suite("mtl7").leaves == (
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


def test_the_suites_there_are() -> None:
    assert suite_names() == [
        "csr_mtl", "flan", "flan_mbc10", "flan_small", "mini32", "mini_text", "mtl5", "mtl7", "mtl_proposal", "ni42",
        "nlu_mtl", "or_mtl", "or_mtl_no_code", "spectr9",
    ]  # fmt: skip
    assert {found.name for found in suites() if found.kind == "oblivion"} == {
        "mini_text",
        "or_mtl",
        "or_mtl_no_code",
    }


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


def test_tasks_by_name_are_a_suite_too() -> None:
    found = suite("piqa/boolq")
    assert (found.name, tuple(found.tasks)) == ("boolq/piqa", ("boolq", "piqa")), "lm-eval sorts them too"
    assert found.leaves[2:] == ("lorafuse_piqa", "lorafuse_piqa_options")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("mtl6", r"unknown suite 'mtl6'\. Did you mean 'mtl7'"),
        ("arc_easi", r"unknown suite 'arc_easi'\. Did you mean 'arc_easy'"),
        ("piqa/bolq", r"unknown task 'bolq'\. Did you mean 'boolq'"),
        ("piqa/hellaswag_gl", r"unknown task 'hellaswag_gl'"),
        ("piqa/piqa", "names a task twice"),
        ("piqa/lorafuse_piqa", "names a task twice: lorafuse_piqa, lorafuse_piqa"),
        ("piqa/mtl5", r"unknown task 'mtl5'"),
        ("", r"unknown suite ''"),
        ("nowhere/mine.yaml", "no suite file nowhere/mine.yaml"),
    ],
)
def test_what_exists_nowhere_is_refused(given: str, message: str) -> None:
    with pytest.raises(LorafuseError, match=message) as found:
        suite(given)
    assert "\n" not in str(found.value)


def test_every_suite_loads_as_lm_eval_loads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = TaskManager(include_defaults=False, include_path=str(TASKS), metadata={"data": "mini"})
    assert set(manager.all_groups) == set(suite_names())
    for found in of_mini():
        theirs, ours = manager.load([found.name])["tasks"], load_tasks(found, "mini")
        assert list(ours) == list(theirs) == list(found.leaves)
        for name, task in ours.items():
            assert list(task.higher_is_better()) == list(theirs[name].higher_is_better())


def test_main_metrics_are_reported_with_their_direction() -> None:
    for found in of_mini():
        for name, task in load_tasks(found, "mini").items():
            better_up, definition = task.higher_is_better(), found.tasks[task_key(name)]
            if name in definition.beside:
                assert list(better_up) == ["acc_options"]
            else:
                assert better_up[definition.metric] is (definition.direction == "up"), name
                assert ("score" in better_up) is (definition.direction == "up"), (
                    "a loss has no place in a mean"
                )


def test_what_the_files_say_of_their_tasks() -> None:
    said = suite("spectr9").tasks["cola"]
    assert (said.metric, said.chance, said.unit) == ("acc", 0.5, "fraction")  # as its paper scores it
    said = suite("nlu_mtl").tasks["cola"]
    assert (said.metric, said.chance) == ("mcc", 0.0)
    said = suite("mtl_proposal").tasks["dialogue"]
    assert (said.direction, said.unit, said.chance) == ("down", "nats/byte", None)
    assert suite("csr_mtl").tasks["siqa"].chance == pytest.approx(1 / 3)
    assert [key for key, task in suite("or_mtl").tasks.items() if task.runs_code] == ["humaneval", "mbpp"]
    assert all(task.chosen == "named" for found in suites() for task in found.tasks.values())


def test_chance_is_one_over_the_words_of_a_label_task(handmade_data: Path) -> None:
    for found in suites():
        for key, definition in found.tasks.items():
            if definition.beside and definition.metric == "acc" and not key.startswith("arc"):
                task = load_tasks(suite(key), str(handmade_data))[definition.beside[0]]
                words = max(len(task.doc_to_choice(doc)) for doc in task.eval_docs)
                assert definition.chance == pytest.approx(1 / words) or key in ("obqa", "csqa"), key


def test_every_yaml_is_found_and_no_include_is(handmade_data: Path) -> None:
    manager = TaskManager(include_defaults=False, include_path=str(TASKS))
    assert set(manager.all_tasks) == set(catalogue.ours())
    assert {str(file.path.resolve()) for file in catalogue.ours().values()} == {
        str(entry.yaml_path) for entry in manager.task_index.values()
    }
    assert all(name.startswith("lorafuse_") for name in manager.all_subtasks)


@pytest.mark.slow
def test_names_of_lm_evals_files_are_those_of_its_own_index() -> None:
    index = TaskManager().task_index
    by_file = {name: entry.yaml_path for name, entry in index.items() if entry.yaml_path}
    assert set(by_file) <= catalogue.names()
    for name, path in by_file.items():
        file = catalogue.find(name)
        assert file is not None and path is not None and file.path.resolve() == path.resolve()


def test_every_leaf_pins_its_data_set() -> None:
    """A board compares rows, so rows of the hub are of one commit; Flan's could not be looked up yet."""
    losses = {key for found in suites() if found.kind == "loss" for key in found.tasks}
    unpinned = {"dialogue", *suite("mini_text").tasks, *losses}  # on the hub: Flan's alone
    for found in suites():
        configs = {
            task_key(member.leaf): member.config
            for member in members(found.files[found.name], catalogue.read(found.files[found.name]))
        }
        for key, config in configs.items():
            revision = config["dataset_kwargs"]["dataset"].get("revision")
            assert (revision is None) is (key in unpinned), key
            assert revision is None or re.fullmatch("[0-9a-f]{40}", revision), key
