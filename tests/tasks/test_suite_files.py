"""Suites in files of one's own, of lm-eval's tasks too: what they mean, and what is refused in one line."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import pytest
from lm_eval.tasks import TaskManager

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.tasks import catalogue
from lorafuse_bench.tasks.facts import Suite
from lorafuse_bench.tasks.loading import load_tasks
from lorafuse_bench.tasks.suites import RULE, suite, suite_of_leaves
from lorafuse_bench.tasks.suites import task as task_of


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of task files that is searched."""
    monkeypatch.setenv(catalogue.VARIABLE, str(tmp_path))
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.write_text(textwrap.dedent(text))
    return path


def named(folder: Path, facts: str, tasks: str = "[arc_easy, lorafuse_sst2]") -> Path:
    return write(
        folder / "mine.yaml", f"group: mine\ntask: {tasks}\nmetadata: {{version: 1, lorafuse: {facts}}}\n"
    )


@pytest.mark.parametrize(
    ("name", "metric", "direction", "unit", "filter"),
    [
        ("arc_easy", "acc", "up", "fraction", "none"),
        ("wikitext", "bits_per_byte", "down", "bits/byte", "none"),
        ("triviaqa", "exact_match", "up", "fraction", "remove_whitespace"),
        ("lambada_openai", "acc", "up", "fraction", "none"),
    ],
)
def test_a_main_metric_is_chosen_by_the_written_rule(
    name: str, metric: str, direction: str, unit: str, filter: str
) -> None:
    found = suite(name).tasks[name]
    assert (found.metric, found.direction, found.unit, found.filter) == (metric, direction, unit, filter)
    assert found.chosen == RULE
    told = suite(name).model_dump_json()
    assert Suite.model_validate_json(told).model_dump_json() == told, (
        "but for what it says of files that lie here"
    )


def test_a_suite_file_names_metrics_and_takes_lm_evals_tasks(tmp_path: Path) -> None:
    path = named(tmp_path, "{source: a paper, tasks: {arc_easy: {metric: acc_norm, chance: 1/4}}}")
    found = suite(str(path))
    assert found.name == "mine" and found.source == "a paper" and found.kind == "scored"
    easy = found.tasks["arc_easy"]
    assert (easy.metric, easy.chance, easy.chosen) == ("acc_norm", 0.25, "named")
    assert found.tasks["sst2"].metric == "acc"


def test_lm_evals_name_in_a_file_is_lm_evals_task(folder: Path) -> None:
    found = suite(str(named(folder, "{}", "[sst2]")))
    assert found.tasks["sst2"].task == "sst2"
    assert suite("sst2").tasks["sst2"].task == "lorafuse_sst2"


def test_a_group_in_a_group_brings_what_it_says(folder: Path) -> None:
    named(folder, "{tasks: {arc_easy: {metric: acc_norm}}}")
    write(
        folder / "outer.yaml",
        "group: outer\ntask: [mine, boolq]\nmetadata: {lorafuse: {tasks: {boolq: {chance: 0.5}}}}\n",
    )
    found = suite("outer")
    assert [task.task for task in found.tasks.values()] == ["arc_easy", "lorafuse_sst2", "boolq"]
    assert found.tasks["arc_easy"].metric == "acc_norm" and found.tasks["boolq"].chance == 0.5


def test_a_users_file_wins_over_ours(folder: Path) -> None:
    write(folder / "five.yaml", "group: mtl5\ntask: [lorafuse_piqa]\n")
    assert list(suite("mtl5").tasks) == ["piqa"]


@pytest.mark.parametrize("name", ["mine.yml", "[1] *?/mine.yaml", "mine.yaml"])
def test_a_suite_s_file_is_what_its_name_means_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As `run` takes it: the file is read first, its name later, by workers too."""
    monkeypatch.setenv(catalogue.VARIABLE, "")
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    write(path, "group: mtl5\ntask: [lorafuse_piqa]\n")
    assert list(suite(str(path)).tasks) == list(suite("mtl5").tasks) == ["piqa"]


def test_a_suite_s_file_whose_name_would_mean_another_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(catalogue.VARIABLE, "")
    (tmp_path / "a:b").mkdir()
    apart = write(tmp_path / "a:b" / "mine.yaml", "group: mtl5\ntask: [lorafuse_piqa]\n")
    with pytest.raises(LorafuseError, match="':' separates folders in LORAFUSE_TASKS. Rename that folder"):
        suite(str(apart))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "not a task or suite"),
        ("a: [", "not readable YAML"),
        ("group: mine\ntask: &a [*a]", "aliases .* stand for too many values"),
        ("group: mine\ntask: [arc_easy]\ntask: [piqa]", "task is there twice"),
        ("group: mine\ntask: [arc_easy]\ninclude: nowhere.yaml", "nowhere.yaml: not readable YAML"),
        ("group: mine\ntask: [arc_easy]\ninclude: mine.yaml", "includes itself"),
        ("task: mine", "the file of a task, not of a suite"),
        ("group: mine\ntask: []", "needs `group:`, its name, and `task:`"),
        ("group: 3\ntask: [arc_easy]", "needs `group:`, its name, and `task:`"),
        ("group: mine\ntask: [3]", "3 names no task"),
        ("group: mine\ntask: [mine]", "group 'mine' holds itself"),
        ("group: mine\ntask: [arc_eazy]", r"unknown task 'arc_eazy'\. Did you mean 'arc_easy'"),
        ("group: mine\ntask: [arc_easy, arc_easy]", "names a task twice"),
        ("group: mine\ntask: [sst2, lorafuse_sst2]", "names a task twice: sst2, lorafuse_sst2"),
        ("group: mine\ntask: [squadv2]", "Name its main one in the suite's file"),
    ],
)
def test_a_file_of_the_wrong_shape_is_refused(folder: Path, text: str, message: str) -> None:
    path = write(folder / "mine.yaml", text)
    with pytest.raises(LorafuseError, match=message) as found:
        suite(str(path))
    assert "\n" not in str(found.value)


def test_an_include_that_is_a_pipe_is_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "pipe.yaml")
    path = write(folder.parent / "mine.yaml", f"group: mine\ntask: [arc_easy]\ninclude: {folder}/pipe.yaml")
    with pytest.raises(LorafuseError, match=r"pipe\.yaml is not a regular file"):
        suite(str(path))


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (
            "{tasks: {arc_easy: {metric: f1}}}",
            r"task 'arc_easy': has no metric 'f1'\. It reports acc, acc_norm",
        ),
        ("{tasks: {arc_easy: {metric: acc_nrm}}}", "Did you mean 'acc_norm'"),
        (
            "{tasks: {arc_easy: {direction: down}}}",
            "direction 'down' contradicts the metric: for acc up is better",
        ),
        ("{tasks: {arc_easy: {direction: sideways}}}", "tasks.arc_easy.direction"),
        ("{tasks: {arc_easy: {filter: strict}}}", r"has no filter 'strict'\. It has none"),
        ("{tasks: {arc_easy: {chance: a/b}}}", "chance"),
        ("{tasks: {arc_easy: {chance: 1/0}}}", "chance|Fraction"),
        ("{tasks: {arc_easy: {chance: .nan}}}", "chance"),
        ("{tasks: {arc_eazy: {metric: acc}}}", "'arc_eazy' is not a task of the suite"),
        ("{kind: loss}", "is of losses, but arc_easy is better the larger"),
        ("{kind: other}", "kind"),
        ("{knd: loss}", "knd"),
        ("[1]", "metadata.lorafuse"),
    ],
)
def test_wrong_facts_are_refused(folder: Path, facts: str, message: str) -> None:
    with pytest.raises(LorafuseError, match=message) as found:
        suite(str(named(folder, facts)))
    assert "\n" not in str(found.value)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LorafuseError, match="no folder .*nowhere to search for tasks"):
        catalogue.include([tmp_path / "nowhere"])


FAMILY = """
group: family
task:
  - {task: one, dataset_kwargs: {data_files: {test: ONE}}}
  - {task: two, dataset_kwargs: {data_files: {test: TWO}}, doc_to_text: "Two: {{question}}"}
dataset_path: csv
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}?"
doc_to_choice: ["no", "yes"]
doc_to_target: label
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1, lorafuse: {each: {chance: 1/2}, tasks: {family::two: {chance: 1/4}}}}
"""


def test_tasks_that_differ_in_one_parameter_are_one_file(folder: Path) -> None:
    """Together and alone, as stock lm-eval names and loads them."""
    text = FAMILY
    for name in ("one", "two"):
        (folder / f"{name}.csv").write_text(f"question,label\n{name},1\n")
        text = text.replace(name.upper(), str(folder / f"{name}.csv"))
    write(folder / "family.yaml", text)
    found = suite("family")
    assert found.leaves == ("family::one", "family::two")
    assert {key: task.chance for key, task in found.tasks.items()} == {"one": 0.5, "two": 0.25}
    theirs = TaskManager(include_defaults=False, include_path=str(folder)).load(["family"])["tasks"]
    ours = load_tasks(found, "mini")
    assert list(ours) == list(theirs) == list(found.leaves)
    assert [task.doc_to_text(task.eval_docs[0]) for task in ours.values()] == ["one?", "Two: two"]
    for key in ("two", "family::two"):
        alone = suite(key)
        assert (alone.name, alone.leaves) == ("two", ("family::two",))
        assert list(load_tasks(alone, "mini")) == ["family::two"]
    assert task_of("two").task == "family::two"
    assert suite_of_leaves(["family::one", "family::two"], ["family"]).name == "family"
    assert suite_of_leaves(["family::two"], []).leaves == ("family::two",)


def test_a_tag_stands_for_its_tasks(folder: Path) -> None:
    for name in ("a", "b"):
        write(
            folder / f"{name}.yaml", f"task: {name}_tagged\ntag: [mine_tag]\noutput_type: multiple_choice\n"
        )
    write(folder / "group.yaml", "group: held\ntask: [mine_tag]\nmetadata: {version: 1}\n")
    assert suite("mine_tag").name == "a_tagged/b_tagged"
    assert suite("mine_tag/arc_easy").leaves == ("a_tagged", "arc_easy", "b_tagged")
    assert suite("held").leaves == ("a_tagged", "b_tagged")


@pytest.mark.parametrize("made", ["median", "bypass", "brier_score", "!function my.macro_f1"])
def test_a_main_metric_of_which_no_measure_is_known_is_refused_before_anything_runs(
    folder: Path, made: str
) -> None:
    """In one line that names those that are, or where its file says what its items are, taken."""
    task = "task: theirs\noutput_type: multiple_choice\nmetric_list:\n  - {metric: mine, aggregation: "
    task += f"{made}, higher_is_better: true}}\n  - {{metric: acc}}\nmetadata: {{lorafuse: {{metric: mine"
    write(folder / "theirs.yaml", task + "}}\n")
    name = made.removeprefix("!function ")
    with pytest.raises(
        LorafuseError, match=f"mine is made by the aggregation '{name}', for which there is no measure"
    ) as error:
        suite("theirs")
    assert "Name another main metric: acc, or say" in str(error.value) and "\n" not in str(error.value)
    write(folder / "theirs.yaml", task + ", measure: ratio}}\n")
    suite.__globals__["_named"].cache_clear()
    assert suite("theirs").tasks["theirs"].measure == "ratio"


@pytest.mark.parametrize(
    ("metrics", "main", "unit"),
    [
        ("{metric: f1}, {metric: acc}", "acc", "fraction"),
        ("{metric: mcc}", "mcc", "fraction"),
        ("{metric: bleu}, {metric: ter}", "bleu", "percent"),
        ("{metric: word_perplexity}, {metric: bits_per_byte}", "bits_per_byte", "bits/byte"),
        ("{metric: perplexity}", "perplexity", "perplexity"),
    ],
)
def test_a_mean_speaks_for_a_task_before_a_metric_of_all_items(
    folder: Path, metrics: str, main: str, unit: str
) -> None:
    write(folder / "theirs.yaml", f"task: theirs\noutput_type: multiple_choice\nmetric_list: [{metrics}]\n")
    found = suite("theirs").tasks["theirs"]
    assert (found.metric, found.unit, found.chosen) == (main, unit, RULE)
