"""docs/extending/task.md, block by block: its files are written, its commands run, and the board has its row."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lorafuse_bench.cli import app
from lorafuse_bench.tasks import catalogue
from lorafuse_bench.tasks.facts import SuiteFacts, TaskFacts

PAGE = (Path(__file__).parents[2] / "docs" / "extending" / "task.md").read_text()


def test_the_page_leads_from_a_csv_to_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(catalogue.VARIABLE, "")
    for name, text in re.findall(r"```\w+ file=(\S+)\n(.*?)```", PAGE, re.S):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (commands,) = re.findall(r"```sh\n(.*?)```", PAGE, re.S)
    for line in commands.splitlines():
        done = CliRunner().invoke(app, shlex.split(line)[1:])
        assert done.exit_code == 0, f"{line}\n{done.output}"
    (board,) = json.loads((tmp_path / "leaderboard.json").read_text())["boards"]
    assert board["suite"] == "desk" and {column["task"] for column in board["columns"]} == {"tickets", "sst2"}
    assert {"base", "oracle", "mu", "svd"} <= {row["label"] for row in board["rows"]}


def test_the_page_lists_what_may_be_said() -> None:
    assert all(f"| `{name}` |" in PAGE for name in (*TaskFacts.model_fields, *SuiteFacts.model_fields))
