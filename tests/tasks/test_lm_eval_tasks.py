"""Tasks that nothing here knows, by their own names: multiple choice, generation and rolling log-likelihood."""

from __future__ import annotations

import json
import re
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest
from datasets import Dataset
from lm_eval.tasks import TaskManager
from stock import stock
from tiny import tiny_zoo
from typer.testing import CliRunner

from lorafuse_bench.cli import app
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.boards.alike import check_pair
from lorafuse_bench.leaderboards.boards.collect import read
from lorafuse_bench.leaderboards.results.cell_files import read_cell
from lorafuse_bench.leaderboards.results.difference import first_difference
from lorafuse_bench.leaderboards.results.lm_eval_results import read_lm_eval
from lorafuse_bench.tasks import catalogue
from lorafuse_bench.tasks.loading import load_tasks
from lorafuse_bench.tasks.rows import training_rows
from lorafuse_bench.tasks.suites import suite, task

CHOOSE = """
task: choose
dataset_path: csv
dataset_kwargs: {{data_files: {{train: {0}/train.csv, test: {0}/test.csv}}}}
output_type: multiple_choice
training_split: train
test_split: test
fewshot_split: train
num_fewshot: 1
doc_to_text: "{{{{question}}}}?"
doc_to_choice: ["no", "yes"]
doc_to_target: label
"""
WRITE = r"""
task: write
description: "Copy. "
dataset_path: my/words
dataset_name: short
output_type: generate_until
training_split: train
validation_split: validation
doc_to_text: "{{word}}"
doc_to_target: "{{word}}"
generation_kwargs: {until: ["\n"], max_gen_toks: 4}
filter_list:
  - {name: raw, filter: [{function: take_first}]}
  - {name: lower, filter: [{function: lowercase}, {function: take_first}]}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}
"""
ROLL = """
task: roll
dataset_path: my/words
dataset_name: short
output_type: loglikelihood_rolling
test_split: validation
doc_to_text: ""
doc_to_target: "{{word}}"
"""
MINE = """
group: mine
task: [choose, write, roll]
metadata: {version: 1, lorafuse: {tasks: {choose: {chance: 1/2}, write: {filter: lower}}}}
"""

CORPUS = """
group: corpus
task:
  - {task: choose, metric_list: [{metric: f1}, {metric: mcc}]}
  - {task: write, metric_list: [{metric: bleu}, {metric: chrf}, {metric: ter}]}
  - roll
metadata: {version: 1, lorafuse: {tasks: {roll: {metric: word_perplexity}, write: {metric: ter}}}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Task files, a CSV and a data directory; the variable is put back after the test."""
    monkeypatch.setenv(catalogue.VARIABLE, "")
    monkeypatch.delenv("LORAFUSE_DATA", raising=False)
    for split, rows in (("train", "a,1\nb,0\n"), ("test", "c,1\nd,0\ne,0\n")):
        (tmp_path / f"{split}.csv").write_text(f"question,label\n{rows}")
    words = tmp_path / "data" / "my__words" / "short"
    words.mkdir(parents=True)
    for split in ("train", "validation"):
        parquet.write_table(
            Dataset.from_dict({"word": [f"{split} é", "two"]}).data.table, words / f"{split}.parquet"
        )
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    files = {"choose": CHOOSE.format(tmp_path), "write": WRITE, "roll": ROLL, "mine": MINE, "corpus": CORPUS}
    for name, text in files.items():
        (tasks / f"{name}.yaml").write_text(text)
    return tmp_path


@pytest.fixture
def included(folder: Path) -> Path:
    catalogue.include([folder / "tasks"])
    return folder


def run(folder: Path, zoo: Path, *arguments: str) -> Any:
    fixed = ["--zoo", str(zoo), "--data", str(folder / "data"), "--out", str(folder / "out")]
    return CliRunner().invoke(app, ["run", *fixed, "--experts", "sst2,mnli", "--batch-size", "4", *arguments])


def test_all_three_kinds_run_by_their_own_names(folder: Path) -> None:
    zoo = tiny_zoo(folder / "zoo", experts=2).root
    done = run(folder, zoo, "--methods", "mu", "--suites", "mine", "--include-path", str(folder / "tasks"))
    assert done.exit_code == 0, done.output
    result, items = read_cell(next((folder / "out" / "mine").rglob("mu.json")))
    assert {key: found.representative for key, found in result.tasks.items()} == {
        "choose": "acc",
        "write": "exact_match",
        "roll": "bits_per_byte",
    }
    assert [result.tasks[key].few_shot for key in ("choose", "write", "roll")] == [1, 0, 0]
    assert (
        result.tasks["choose"].dataset.split == "test" and result.tasks["write"].dataset.split == "validation"
    )
    assert result.data.splits["choose"] == {"train": "train.csv", "test": "test.csv"}
    assert result.data.splits["write"]["validation"] == "validation.parquet"
    assert (result.tasks["roll"].metrics["bits_per_byte"].direction, result.tasks["choose"].n) == ("down", 3)
    assert set(result.tasks["roll"].metrics) == {"bits_per_byte", "word_perplexity"}, "of bytes it follows"
    bits, size = items.root["roll"].metrics["bits_per_byte"][0]  # type: ignore[misc]
    assert size == len("validation é".encode()) and bits > 0


@pytest.mark.parametrize(
    ("suites", "asked"),
    [
        ("mine", ["mine"]),
        ("roll/choose", ["choose", "roll"]),
        ("corpus", ["corpus"]),
        ("sst2", ["lorafuse_sst2", "lorafuse_sst2_options"]),
    ],
)
def test_the_same_cell_from_both_routes_has_the_same_scores_and_identity(
    folder: Path, suites: str, asked: list[str]
) -> None:
    """A suite of one's own, tasks by name in another order, and one of ours: all that is not cost or machine."""
    zoo, tasks = tiny_zoo(folder / "zoo", experts=2).root, folder / "tasks"
    source = "mini" if suites == "sst2" else str(folder / "data")
    common = {"experts": "sst2/mnli", "zoo": zoo, "data": source, "limit": 3}
    arguments = ["--methods", "base,mu", "--suites", suites, "--include-path", str(tasks), "--data", source]
    done = run(folder, zoo, *arguments, "--limit", "3")
    assert done.exit_code == 0, done.output
    ours = next((folder / "out").rglob("mu.json"))
    theirs = stock(folder / "stock", asked, tasks, method="mu", **common)
    (mine, my_items), (stocks, stock_items) = read_cell(ours), read_lm_eval(theirs)
    assert my_items == stock_items
    assert mine.run_id == stocks.run_id
    apart = {"cost", "environment", "batch_size", "num_fewshot"}
    assert first_difference(mine.model_dump(exclude=apart), stocks.model_dump(exclude=apart)) is None
    check_pair(*(read(path, {}) for path in (ours.with_name("base.json"), theirs)))


def test_metrics_of_whole_corpora_have_errors_on_a_board(folder: Path) -> None:
    zoo = tiny_zoo(folder / "zoo", experts=2).root
    done = run(
        folder, zoo, "--methods", "base", "--suites", "corpus", "--include-path", str(folder / "tasks")
    )
    assert done.exit_code == 0, done.output
    result, items = read_cell(next((folder / "out").rglob("base.json")))
    found = {
        (key, name, metric.measure, metric.unit, metric.direction, len(items.root[key].metrics[name][0]))  # type: ignore[arg-type]
        for key, task in result.tasks.items()
        for name, metric in task.metrics.items()
    }
    assert found == {
        ("choose", "f1", "f1", "fraction", "up", 6),
        ("choose", "mcc", "mcc", "fraction", "up", 6),
        ("write", "bleu", "bleu_percent", "percent", "up", 10),
        ("write", "chrf", "chrf", "percent", "up", 18),
        ("write", "ter", "ratio", "percent", "down", 2),
        ("roll", "word_perplexity", "perplexity", "perplexity", "down", 2),
        ("roll", "bits_per_byte", "ratio", "bits/byte", "down", 2),
    }
    main = {key: task.representative for key, task in result.tasks.items()}
    assert main == {"choose": "f1", "write": "ter", "roll": "word_perplexity"}
    assert all(task.metrics[task.representative].stderr is not None for task in result.tasks.values())


def test_what_else_was_asked_is_recorded_alike_by_both_routes(folder: Path) -> None:
    zoo, tasks = tiny_zoo(folder / "zoo", experts=2).root, folder / "tasks"
    arguments = ["--methods", "mu", "--suites", "write", "--include-path", str(tasks)]
    done = run(folder, zoo, *arguments, "--apply-chat-template")
    assert done.exit_code == 2
    assert "the tokenizer of base 'tiny' has no chat template. Leave" in done.stderr
    config = json.loads((zoo / "base" / "tokenizer_config.json").read_text())
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    (zoo / "base" / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))

    arguments += ["--apply-chat-template", "--system-instruction", "Be brief.", "--num-fewshot", "1"]
    done = run(folder, zoo, *arguments, "--gen-kwargs", "max_gen_toks=3,do_sample=false")
    assert done.exit_code == 0, done.output
    mine, items = read_cell(next((folder / "out").rglob("mu.json")))
    theirs = stock(
        folder / "stock", ["write"], tasks, method="mu", zoo=zoo, data=folder / "data", experts="sst2/mnli",
        apply_chat_template=True, fewshot_as_multiturn=True, system_instruction="Be brief.", num_fewshot=1,
        gen_kwargs="max_gen_toks=3,do_sample=false",
    )  # fmt: skip
    stocks, stock_items = read_lm_eval(theirs)
    assert mine.told.model_dump() == {
        "system_instruction": "Be brief.",
        "chat_template": "default",
        "fewshot_as_multiturn": True,
        "generation": {"max_gen_toks": 3, "do_sample": False},
        "model": {},
    }
    requests = mine.tasks["write"].requests
    assert requests and requests["write"].generation["max_gen_toks"] == 3
    assert (mine.run_id, items) == (stocks.run_id, stock_items)

    done = run(folder, zoo, *arguments)
    assert done.exit_code == 2
    assert "(settings.generation.do_sample: False, now nothing). Choose another --out" in done.stderr


@pytest.mark.parametrize("given", ["max_gen_toks", '{"until": '])
def test_settings_of_generation_that_cannot_be_read_are_one_line(folder: Path, given: str) -> None:
    done = run(folder, folder, "--zoo", "mini", "--gen-kwargs", given)
    assert done.exit_code == 2
    assert len([line for line in done.stderr.splitlines() if "--gen-kwargs" in line]) == 1


def test_training_rows_are_what_evaluation_asks(included: Path) -> None:
    source = str(included / "data")
    assert [(row.prompt, row.target) for row in training_rows("choose", source)] == [
        ("a?", " yes"),
        ("b?", " no"),
    ]
    assert training_rows("write", source)[0].prompt == "Copy. train é"
    with pytest.raises(LorafuseError, match="no .*my__words/short/test.parquet|'roll' has no split|train"):
        training_rows("roll", source, split="test")


def test_a_suite_files_own_folder_is_searched(folder: Path) -> None:
    found = suite(str(folder / "tasks" / "mine.yaml"))
    assert found.tasks["choose"].chance == 0.5 and found.tasks["write"].filter == "lower"
    assert task("roll").metric == "bits_per_byte"


def test_lm_evals_own_task_reads_the_mini_worlds_rows() -> None:
    loaded = load_tasks(suite("arc_easy"), "mini")["arc_easy"]
    assert loaded.dataset.provenance["test"] == "generated, world 0"
    assert training_rows("arc_easy", "mini", limit=1)[0].prompt.startswith("Question: ")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("choose", ("test.csv", "nowhere.csv"), "task 'choose' cannot be loaded"),
        ("write", ("my/words", "my/wrods"), "my__wrods/short: this data source lacks the dataset"),
        ("write", ("lowercase", "lowercas"), "task 'write' cannot be loaded|suite 'write'"),
        ("write", ("exact_match", "exact_mach"), "task 'write': lm-eval knows no metric 'exact_mach'"),
    ],
)
def test_a_task_that_does_not_load_is_named_in_one_line(
    included: Path, file: str, change: tuple[str, str], message: str
) -> None:
    path = included / "tasks" / f"{file}.yaml"
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(LorafuseError, match=message) as found:
        load_tasks(suite(file), str(included / "data"))
    assert "\n" not in str(found.value)


def test_a_task_without_test_rows_is_refused(included: Path) -> None:
    (included / "test.csv").write_text("question,label\n")
    with pytest.raises(LorafuseError, match="task 'choose'.* (no rows to evaluate|cannot be loaded)"):
        load_tasks(suite("choose"), str(included / "data"))


def test_a_packages_tasks_are_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = folder / "lorafuse_third_party"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "theirs.yaml").write_text("group: theirs\ntask: [lorafuse_sst2]\nmetadata: {lorafuse: {}}\n")
    monkeypatch.syspath_prepend(str(folder))
    entry = EntryPoint("theirs", "lorafuse_third_party", catalogue.ENTRY_POINTS)
    monkeypatch.setattr(catalogue, "entry_points", lambda group: [entry])
    catalogue.packaged.cache_clear()
    try:
        assert list(suite("theirs").tasks) == ["sst2"]
        assert (
            "theirs" in TaskManager(include_defaults=False, include_path=list(catalogue.places())).all_groups
        )
        broken = EntryPoint("theirs", "lorafuse_no_such", catalogue.ENTRY_POINTS)
        monkeypatch.setattr(catalogue, "entry_points", lambda group: [broken])
        catalogue.packaged.cache_clear()
        with pytest.raises(
            LorafuseError, match=r"entry point 'theirs' \(lorafuse_no_such\).*Repair or uninstall"
        ):
            suite("theirs")
    finally:
        monkeypatch.undo()
        catalogue.packaged.cache_clear()


INSIDE = """test_split: test, output_type: multiple_choice, doc_to_text: "{{question}}",
  doc_to_choice: ["no", "yes"], doc_to_target: label"""
BRIER = """task: [{task: choose, metric_list: [{metric: brier_score}]}]
metadata: {lorafuse: {each: {metric: brier_score}}}"""
BAD_SUITES = [
    ("task: [arc_esy]", r"unknown task 'arc_esy'\. Did you mean 'arc_easy'"),
    ("task: [lorafuse_sst3]", r"unknown task 'lorafuse_sst3'\. Did you mean 'lorafuse_sst2'"),
    ("task: [choose]\nmetadata: {lorafuse: {each: {metric: f2}}}", "has no metric 'f2'.* It reports acc"),
    (
        "task: [choose]\nmetadata: {lorafuse: {each: {direction: down}}}",
        "direction 'down' contradicts the metric",
    ),
    ("task: choose", "no suite: it needs `group:`, its name, and `task:`, the list"),
    ("task: [[choose]]", "names no task"),
    (
        "task: [choose]\nmetadata: {lorafuse: {kinds: loss}}",
        r"metadata\.lorafuse\.kinds: there is no such key",
    ),
    (
        "task: [choose]\nmetadata: {lorafuse: [loss]}",
        r"metadata\.lorafuse: \['loss'\] is no `key: value` lines",
    ),
    (
        "task: [choose]\nmetadata: {lorafuse: {each: {chance: 1/0}}}",
        "each.chance: '1/0' is no number, such as",
    ),
    (
        "task: [choose]\nmetadata: {lorafuse: {each: {chance: half}}}",
        "each.chance: 'half' is no number, such as",
    ),
    ("task: [choose]\nmetadata: {lorafuse: {kind: loss}}", "is of losses, but choose is better the larger"),
    ("task: [", "not readable YAML"),
    (
        BRIER,
        "brier_score is made by the aggregation 'brier_score', for which there is no measure",
    ),
    (
        "task: [{task: choose, metric_list: [{metric: f1, aggregation: !function my.macro_f1}]}]",
        "of no metric of f1 is it known what its items are",
    ),
    (
        "task: [choose]\nmetadata: {lorafuse: {each: {measure: rato}}}",
        "unknown measure 'rato'. Did you mean 'ratio'",
    ),
    ("task: [empty]", "no rows to evaluate|cannot be loaded"),
    (
        "task: [{task: full, <<: CHOOSE}, {task: none, <<: EMPTY}]",
        "task 'bad::none' (has no rows to evaluate|cannot be loaded: (?!KeyError))",
    ),
]


@pytest.mark.parametrize(("text", "message"), BAD_SUITES, ids=[text for text, _ in BAD_SUITES])
def test_a_bad_suite_is_one_line_and_exit_code_2(folder: Path, text: str, message: str) -> None:
    (folder / "none.csv").write_text("question,label\n")
    empty = CHOOSE.format(folder).replace("task: choose", "task: empty").replace("test.csv", "none.csv")
    (folder / "tasks" / "empty.yaml").write_text(empty)
    path = folder / "tasks" / "bad.yaml"
    for name, file in (("CHOOSE", "test.csv"), ("EMPTY", "none.csv")):
        rows = f"dataset_path: csv, dataset_kwargs: {{data_files: {{test: {folder}/{file}}}}}"
        text = text.replace(f"<<: {name}", f"{rows}, {INSIDE}")
    path.write_text(f"group: bad\n{text}\n")
    done = run(folder, Path("mini"), "--suites", str(path), "--methods", "base", "--experts", "sst2")
    assert done.exit_code == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("lorafuse: ")]
    assert re.search(message, line), line
    assert not list((folder / "out").rglob("*.json"))
