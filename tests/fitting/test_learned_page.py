"""The commands of docs/learned-fusion.md, each at toy size."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from tiny import tiny_zoo
from typer.testing import CliRunner

from lorafuse_bench.cli import app
from lorafuse_bench.zoo.manifest import Zoo

PAGE = (Path(__file__).parents[2] / "docs" / "learned-fusion.md").read_text()
COMMANDS = re.findall(r"^lorafuse (?:fit|run) .*--zoo .*$", PAGE, re.MULTILINE)
FAST = {
    "fit": [
        "--data",
        "mini",
        "--steps",
        "2",
        "--rows",
        "4",
        "--dev",
        "2",
        "--batch-size",
        "2",
        "--lrs",
        "0.1",
    ],
    "run": ["--data", "mini", "--limit", "1"],
}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return tiny_zoo(tmp_path_factory.mktemp("page") / "zoo", experts=2)


def test_the_page_shows_every_learned_method() -> None:
    assert len(COMMANDS) > 8


@pytest.mark.timeout(600)
def test_the_commands_of_the_page_run_one_after_the_other(zoo: Zoo) -> None:
    own = {"mtl7": "sst2/mnli", "zoo": str(zoo.root), "results": str(zoo.root.parent / "results")}
    for command in COMMANDS:
        words = shlex.split(command, comments=True)[1:]
        words = [own.get(word, word).replace("clusters=3", "clusters=2") for word in words]
        done = CliRunner().invoke(app, [*words, *FAST[words[0]]])
        assert done.exit_code == 0, f"{command}\n{done.output}"
