"""docs/extending/, block by block: files are written, packages installed, commands run. One file is all it takes."""

from __future__ import annotations

import json
import re
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lorafuse_bench.analysis import registry as analyses
from lorafuse_bench.cli import app
from lorafuse_bench.fusion import registry as methods
from lorafuse_bench.leaderboards.measures import measure
from lorafuse_bench.tasks import catalogue

PAGES = Path(__file__).parents[2] / "docs" / "extending"
BLOCK = re.compile(r"```(?:sh|\w+ file=(\S+))\n(.*?)```", re.S)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are given here; what packages register is forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(catalogue.VARIABLE, "")
    for known in (methods.METHODS, analyses.ANALYSES):
        monkeypatch.setattr(known, "_found", dict(known.all()))
        monkeypatch.setattr(known, "_complete", False)
    monkeypatch.setattr(measure, "_MEASURES", dict(measure.measures()))
    measure._complete.cache_clear()


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `pip install -e` leaves: a folder that is imported from, and the package's entry points."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    record = folder / f"{project['name']}-{project['version']}.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    lines = [f"[{group}]\n" + "\n".join(f"{n} = {v}" for n, v in names.items()) for group, names in groups]
    (record / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, project["name"], raising=False)


def walk(page: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every block of a page, in order; the outputs of its commands."""
    outputs = []
    for name, text in BLOCK.findall((PAGES / f"{page}.md").read_text()):
        if name:
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).write_text(text)
            continue
        for line in text.splitlines():
            program, *arguments = shlex.split(line)
            if program == "pip":
                install(Path(arguments[-1]).absolute(), monkeypatch)
                continue
            done = CliRunner().invoke(app, arguments)
            assert done.exit_code == 0, f"{line}\n{done.output}"
            outputs.append(done.output)
    return outputs


def read(name: str) -> Any:
    return json.loads(Path(name).read_text())


def test_an_analysis(monkeypatch: pytest.MonkeyPatch) -> None:
    listed, *_ = walk("analysis", monkeypatch)
    assert "The length of each expert's update" in " ".join(listed.split())
    written = read("out/norms.json")
    assert written["schema"] == "lorafuse.analysis.norms/1" and min(written["norms"].values()) > 0
    assert Path("out/norms.png").read_bytes().startswith(b"\x89PNG")


def test_an_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    walk("adapter", monkeypatch)
    (board,) = read("leaderboard.json")["boards"]
    assert {"base", "gain"} <= {row["label"] for row in board["rows"]} and board["oblivion"]


def test_a_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    walk("suite", monkeypatch)
    (board,) = read("leaderboard.json")["boards"]
    assert board["suite"] == "labels" and [column["task"] for column in board["columns"]] == ["sst2", "mnli"]


def test_a_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    walk("metric", monkeypatch)
    (path,) = Path("results").rglob("mu.json")
    metric = read(str(path))["tasks"]["tickets_f1"]["metrics"]["f1"]
    assert (metric["measure"], metric["unit"], metric["stderr_method"]) == (
        "f1_of_counts",
        "fraction",
        "bootstrap",
    )
    assert 0 <= metric["value"] <= 1


def test_contributing_names_every_page() -> None:
    text = (PAGES.parents[1] / "CONTRIBUTING.md").read_text()
    assert all(f"docs/extending/{page.name}" in text for page in PAGES.glob("*.md"))
