"""Every command that a command prints as the next one is run as it is printed, and so are those it prints."""

from __future__ import annotations

import re
import shlex
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import byte_tokenizer, tiny_model, tiny_zoo
from typer.testing import CliRunner

from lorafuse_bench.cli import app
from lorafuse_bench.zoo.manifest import Zoo

CLI = Path(__file__).resolve().parents[2] / "lorafuse_bench" / "cli"


@pytest.fixture
def folder(tmp_path: Path, handmade_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in whose name needs quoting; the rows are handmade."""
    place = tmp_path / "my work"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setenv("LORAFUSE_DATA", str(handmade_data))
    return place


def call(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, f"{shlex.join(arguments)}\n{done.output}"
    return done.stdout


def hints(printed: str) -> Iterator[list[str]]:
    yield from (shlex.split(line) for line in re.findall(r"^Next: (.*)$", printed, re.MULTILINE))


def follow(printed: str) -> list[str]:
    """Run every hint, and the hints of its output, each once; the subcommands that were run, in order."""
    waiting, done = list(hints(printed)), []
    while waiting:
        program, *arguments = waiting.pop(0)
        assert program == "lorafuse"
        if arguments in done:
            continue
        done.append(arguments)
        waiting += list(hints(call(*few(arguments))))
    return [" ".join(arguments[:2]) if arguments[0] != "run" else "run" for arguments in done]


def few(arguments: list[str]) -> list[str]:
    """The same command on few methods, rows and steps, to be quick."""
    if arguments[0] == "run" and "--methods" not in arguments:
        return [*arguments, "--methods", "base,oracle,concat"]
    return (
        [*arguments, "--steps", "2", "--prompts", "4"] if arguments[:2] == ["train", "router"] else arguments
    )


@pytest.mark.timeout(600)
def test_after_training_experts(folder: Path) -> None:
    tiny_model().save_pretrained(folder / "base")
    byte_tokenizer().save_pretrained(folder / "base")
    fast = ["--steps", "2", "--batch-size", "2", "--rank", "2", "--cutoff", "256"]
    printed = call(
        "train",
        "experts",
        "--suite",
        "sst2/paws",
        "--base",
        "base",
        "--out",
        "a zoo",
        "--data",
        "mini",
        *fast,
    )
    assert follow(printed) == ["train router", "run", "run", "leaderboard build"]


@pytest.mark.timeout(600)
def test_after_indexing_a_zoo_without_a_whole_suite(folder: Path) -> None:
    tiny_zoo(folder / "zoo")
    assert follow(call("zoo", "index", "zoo")) == ["run", "leaderboard build"]


def test_after_indexing_adapters_of_unknown_tasks(folder: Path) -> None:
    zoo = tiny_zoo(folder / "zoo", experts=1)
    (zoo.root / "experts" / "sst2").rename(zoo.root / "experts" / "mine")
    printed = call("zoo", "index", "zoo")
    assert "lorafuse zoo index zoo --task mine=TASK" in printed
    assert "lorafuse run --zoo zoo --suites sst2" in call("zoo", "index", "zoo", "--task", "mine=sst2")


@pytest.mark.timeout(600)
def test_after_an_adapter_where_there_are_no_experts(folder: Path) -> None:
    tiny_model().save_pretrained(folder / "base")
    byte_tokenizer().save_pretrained(folder / "base")
    few_steps = ["--steps", "2", "--rows", "4", "--cutoff", "256", "--data", "mini", "--out", "zoo"]
    printed = call(
        "train", "adapter", "--method", "lora:rank=2", "--suite", "piqa", "--base", "base", *few_steps
    )
    assert follow(printed) == ["run"]  # a board of a scored suite needs an oracle


def test_after_a_limited_run(folder: Path) -> None:
    tiny_zoo(folder / "zoo", experts=1)
    what = ["--zoo", "zoo", "--suites", "sst2", "--out", "r"]
    first = call("run", *what, "--methods", "base", "--limit", "2")
    assert "A board needs oracle in r/sst2/tiny-0 too: run the same with --methods oracle" in first
    printed = call("run", *what, "--methods", "oracle", "--limit", "2")
    assert next(hints(printed))[-1] == "--allow-limit"
    assert follow(printed) == ["leaderboard build"]


def test_after_a_build_of_fewer_tasks_than_a_suite(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny_zoo(folder / "zoo", experts=1)
    monkeypatch.setattr(
        "lorafuse_bench.mini_world.build.build_mini", lambda *_, **__: Zoo(Path("zoo"), made.manifest)
    )
    printed = call("zoo", "build", "mini", "--tasks", "1", "--out", "zoo")
    assert follow(printed) == ["run", "leaderboard build"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("what", [["--method", "concat"], ["--all"]], ids=["merge", "experts"])
def test_after_an_export(folder: Path, what: list[str]) -> None:
    printed = call("export", *what, "--zoo", "mini", "--experts", "sst2,paws", "--out", "out")
    (command,) = hints(printed)
    program = Path(sysconfig.get_path("scripts")) / command[0]
    ran = subprocess.run([program, *command[1:], "--limit", "1"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_hints_are_made_in_one_place() -> None:
    """So that the tests above know all of them."""
    uses = {
        path.name: sorted(re.findall(r"_next\.(\w+)\(", path.read_text()))
        for path in CLI.glob("*.py")
        if "Next:" in path.read_text() or "_next." in path.read_text()
    }
    assert uses == {
        "_next.py": [],
        "export.py": ["command", "harness"],
        "fit.py": ["evaluation"],
        "run.py": ["board"],
        "train.py": ["command", "compared", "evaluation", "evaluation"],
        "zoo.py": ["clustered", "evaluation", "evaluation", "evaluation", "evaluation"],
    }
