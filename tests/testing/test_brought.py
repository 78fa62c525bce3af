"""Tasks and zoos that people bring, each with one fault, and what says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import add_router, tiny_zoo
from toy_cells import write
from typer.testing import CliRunner

from lorafuse_bench.cli import app
from lorafuse_bench.files import sha256_file
from lorafuse_bench.tasks import catalogue
from lorafuse_bench.testing.brought import check_zoo
from lorafuse_bench.zoo.manifest import Zoo

TRAIN = "text,team\nthe invoice is wrong,billing\nthe app is slow,support\n"
TEST = "text,team\nmy card is lost,billing\nthe page is white,support\n"
TASK = """\
task: tickets
dataset_path: csv
dataset_kwargs: {data_files: {train: train.csv, test: test.csv}}
output_type: multiple_choice
training_split: train
test_split: test
doc_to_text: "{{text}}\\nTeam:"
doc_to_choice: [billing, support]
doc_to_target: team
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
metadata:
  version: 1
  lorafuse: {metric: acc}
"""


def verdicts(folder: Path, monkeypatch: pytest.MonkeyPatch, **changed: str) -> dict[str, str]:
    """Check -> what is wrong, of the task in a folder, with some of its files changed."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv(catalogue.VARIABLE, "")
    files = {"train.csv": TRAIN, "test.csv": TEST, "task.yaml": TASK} | {
        f"{name}.{'yaml' if name == 'task' else 'csv'}": text for name, text in changed.items()
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    done = CliRunner().invoke(app, ["check-task", "task.yaml", "--json"])
    made = json.loads(done.stdout)
    failed = {one["check"].split(": ")[-1]: one["why"] for one in made["checks"] if one["status"] == "failed"}
    assert made["failed"] == len(failed) and done.exit_code == bool(failed)
    return failed


def test_a_sound_task_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert verdicts(tmp_path, monkeypatch) == {}


@pytest.mark.parametrize(
    ("changed", "check", "why"),
    [
        ({"task": TASK.replace("{{text}}", "{{txt}}")}, "prompts_are_rendered|it_loads", ""),
        (
            {"task": TASK.replace("doc_to_target: team", "doc_to_target: crew")},
            "targets_are_answers",
            "",
        ),
        (
            {"task": TASK.replace("\\nTeam:", " {{team}}\\nTeam:")},
            "labels_do_not_leak",
            "2 of 2 prompts hold the right answer alone",
        ),
        (
            {"task": TASK.replace("\\nTeam:", "\\nTeam: {{team}}")},
            "labels_do_not_leak",
            "2 of 2 prompts end in their answer",
        ),
        (
            {"train": TRAIN + "my card is lost,billing\n"},
            "train_and_test_do_not_overlap",
            "1 of 2 evaluated prompts are among those to train on",
        ),
        ({"task": TASK.replace("acc", "accuraci")}, "it_loads", ""),
        ({"test": TEST.replace("billing", "")}, "targets_are_answers", ""),
        (
            {"task": TASK.replace("better: true", "better: false")},
            "metrics_point_their_way",
            "higher_is_better of acc is the wrong way round",
        ),
    ],
)
def test_a_fault_of_a_task_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], check: str, why: str
) -> None:
    failed = verdicts(tmp_path, monkeypatch, **changed)
    (name,) = failed.keys() & set(check.split("|"))
    assert why in failed[name]
    assert "\n" not in failed[name]


def test_of_two_files_of_one_task_none_is_taken_for_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "another.yaml").write_text(TASK)
    assert "Rename one" in verdicts(tmp_path, monkeypatch)["it_loads"]


def test_a_sound_zoo_passes_and_says_what_it_was_not_told(tmp_path: Path) -> None:
    tiny_zoo(tmp_path)
    found = {verdict.check: verdict for verdict in check_zoo(tmp_path)}
    assert [one.status for one in found.values()] == ["passed", "passed", "passed", "skipped"], found
    assert "--results" in found["the_oracle_is_above_the_base"].why


def test_fits_are_read_too(tmp_path: Path) -> None:
    zoo = add_router(tiny_zoo(tmp_path))
    (entry,) = zoo.manifest.artefacts
    path = tmp_path / entry.path / entry.file
    tensors = load_file(path)
    assert check_zoo(tmp_path)[0].status == "passed"
    save_file({key: value * torch.nan for key, value in tensors.items()}, path)
    assert "not the file the manifest describes" in check_zoo(tmp_path)[0].why
    told = entry.model_copy(update={"sha256": sha256_file(path)})
    Zoo(tmp_path, zoo.manifest.model_copy(update={"artefacts": (told,)})).save()
    assert "holds NaN" in check_zoo(tmp_path)[0].why


def test_faults_of_a_zoo_are_named(tmp_path: Path) -> None:
    zoo = tiny_zoo(tmp_path)
    weights = tmp_path / "experts" / "mnli" / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    found = {verdict.check: verdict for verdict in check_zoo(tmp_path)}
    assert found["files_are_whole"].status == "failed" and "'mnli'" in found["files_are_whole"].why
    weights.write_bytes(whole)
    first, second, third = zoo.manifest.experts
    twice = second.model_copy(update={"tasks": first.tasks})
    zoo.manifest.__dict__["experts"] = (first, twice, third)
    zoo.save()
    found = {verdict.check: verdict for verdict in check_zoo(tmp_path)}
    assert found["tasks_have_one_expert"].why == "'sst2' and 'mnli' both serve task 'sst2'"
    assert CliRunner().invoke(app, ["check-zoo", str(tmp_path / "none")]).exit_code == 1


def test_an_expert_of_another_base_is_named(tmp_path: Path) -> None:
    tiny_zoo(tmp_path / "zoo")
    tiny_zoo(tmp_path / "other", architecture="gpt2")
    shutil.rmtree(tmp_path / "zoo" / "base")
    shutil.copytree(tmp_path / "other" / "base", tmp_path / "zoo" / "base")
    found = {verdict.check: verdict for verdict in check_zoo(tmp_path / "zoo")}
    assert found["files_are_whole"].status == "failed" and "base" in found["files_are_whole"].why
    assert found["experts_are_of_this_base"].status == "failed", found


def test_an_oracle_that_is_not_above_the_base_is_named(tmp_path: Path) -> None:
    tiny_zoo(tmp_path / "zoo")
    good, bad = [1.0] * 20, [0.0] * 20
    for label, scores in {"base": {"one": bad, "two": good}, "oracle": {"one": good, "two": bad}}.items():
        write(tmp_path / "results", label, scores)
    found = {verdict.check: verdict for verdict in check_zoo(tmp_path / "zoo", [tmp_path / "results"])}
    oracle = found["the_oracle_is_above_the_base"]
    assert oracle.status == "failed"
    assert "does not count two (the oracle does not beat the base" in oracle.why
