"""How a task or suite is named: by its own name, which one file has, and which is text."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.tasks import catalogue
from lorafuse_bench.tasks.suites import suite

ROLL = """
task: roll
dataset_path: my/words
output_type: loglikelihood_rolling
test_split: validation
doc_to_text: ""
doc_to_target: "{{word}}"
metadata: {version: 1}
"""
MINE = "group: mine\ntask: [roll]\nmetadata: {version: 1, lorafuse: {}}\n"


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of task files; the variable is put back after the test."""
    monkeypatch.setenv(catalogue.VARIABLE, "")
    for name, text in (("roll", ROLL), ("mine", MINE)):
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


def test_a_tasks_file_in_the_place_of_a_suites_says_how_to_name_the_task(tasks: Path) -> None:
    with pytest.raises(LorafuseError) as error:
        suite(str(tasks / "roll.yaml"))
    assert str(error.value).endswith(f"Name the task: --include-path {tasks} --suites roll")
    catalogue.include([tasks])
    assert suite("roll").tasks["roll"].metric == "bits_per_byte"


@pytest.mark.parametrize("name", ["roll", "mine"])
def test_a_name_that_two_files_of_a_folder_have_is_refused(tasks: Path, name: str) -> None:
    one, other = (tasks / f"{name}{end}.yaml" for end in ("", "_old"))
    other.write_text(one.read_text().replace("version: 1", "version: 2"))
    (tasks / "alone.yaml").write_text(ROLL.replace("task: roll", "task: alone"))
    catalogue.include([tasks])
    with pytest.raises(LorafuseError, match=f"'{name}' is defined by {one} and by {other}. Rename one."):
        suite(name)
    assert suite("alone").tasks["alone"].metric == "bits_per_byte"


def test_a_name_that_yaml_takes_for_a_number_is_to_be_quoted(tasks: Path) -> None:
    path = tasks / "number.yaml"
    path.write_text(ROLL.replace("task: roll", "task: 2026"))
    catalogue.include([tasks])
    with pytest.raises(LorafuseError, match=f"{path}: the name 2026 is no text. Put it in quotes."):
        suite("2026")
