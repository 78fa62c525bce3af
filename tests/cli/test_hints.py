"""Every command that a command prints as the next one is run as it is printed, and so are those it prints."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from hub_stand_in import Hub, hub  # noqa: F401
from safetensors.torch import save_file
from tiny import byte_tokenizer, tiny_model, tiny_zoo
from typer.testing import CliRunner

from lorafuse_bench.cli import app
from lorafuse_bench.cli._next import compared, evaluation, given
from lorafuse_bench.zoo.manifest import Zoo

CLI = Path(__file__).resolve().parents[2] / "lorafuse_bench" / "cli"

FOLLOWED: set[str] = set()
"""The hints that the tests below run, as `hints_of_commands` names them."""
Test = TypeVar("Test", bound=Callable[..., None])


def follows(*hints: str) -> Callable[[Test], Test]:
    """Decorator of a test: it runs what these hints print."""
    FOLLOWED.update(hints)
    return lambda test: test


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


def follow(printed: str, deep: bool = True) -> list[str]:
    """Run every hint, with `deep` those of its output too, each once; the subcommands that were run, in order."""
    waiting, done = list(hints(printed)), []
    while waiting:
        program, *arguments = waiting.pop(0)
        assert program == "lorafuse"
        if arguments in done:
            continue
        done.append(arguments)
        told = call(*few(arguments))
        waiting += list(hints(told)) if deep else []
    return [" ".join(arguments[:2]) if arguments[0] != "run" else "run" for arguments in done]


QUICKLY = {
    "train router": ["--steps", "2", "--prompts", "4"],
    "train experts": ["--steps", "1", "--rows", "4", "--batch-size", "2", "--rank", "2", "--cutoff", "256"],
}


def few(arguments: list[str]) -> list[str]:
    """The same command on few methods, rows and steps, to be quick."""
    if arguments[0] == "run" and "--methods" not in arguments:
        return [*arguments, "--methods", "base,oracle,concat"]
    if arguments[0] == "run" and "--data" in arguments:
        return [*arguments, "--limit", "2"]
    return [*arguments, *QUICKLY.get(" ".join(arguments[:2]), [])]


@follows("train experts: command", "train experts: evaluation", "train router: evaluation", "run: board")
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


@follows("zoo index: evaluation")
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


@follows("train adapter: compared")
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


@follows("zoo build: evaluation")
def test_after_a_build_of_fewer_tasks_than_a_suite(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny_zoo(folder / "zoo", experts=1)
    monkeypatch.setattr(
        "lorafuse_bench.mini_world.build.build_mini", lambda *_, **__: Zoo(Path("zoo"), made.manifest)
    )
    printed = call("zoo", "build", "mini", "--tasks", "1", "--out", "zoo")
    assert follow(printed) == ["run", "leaderboard build"]


@follows("export: harness")
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("what", [["--method", "concat"], ["--all"]], ids=["merge", "experts"])
def test_after_an_export(folder: Path, what: list[str]) -> None:
    printed = call("export", *what, "--zoo", "mini", "--experts", "sst2,paws", "--out", "out")
    (command,) = hints(printed)
    program = Path(sysconfig.get_path("scripts")) / command[0]
    ran = subprocess.run([program, *command[1:], "--limit", "1"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


@follows("fit: evaluation")
def test_after_a_fit(folder: Path) -> None:
    tiny_zoo(folder / "a zoo", experts=2)
    what = "--suite sst2/mnli --data mini --experts mnli,sst2 --steps 1 --rows 4 --dev 2 --lrs 0.1".split()
    assert follow(call("fit", "merge_sgd:scope=layer", "--zoo", "a zoo", *what), deep=False) == ["run"]


@follows("zoo cluster: clustered")
def test_after_clustering(folder: Path) -> None:
    tiny_zoo(folder / "a zoo", experts=2)
    assert follow(call("zoo", "cluster", "a zoo", "--clusters", "1"), deep=False) == ["train experts"]


@follows("zoo add: evaluation")
def test_after_adding_an_adapter(folder: Path) -> None:
    made = tiny_zoo(folder / "others", experts=2)
    adapter = str(made.root / made.manifest.experts[0].path)
    base = str(made.base_folder())
    printed = call("zoo", "add", "a zoo", adapter, "--task", "sst2", "--base", base)
    assert follow(printed, deep=False) == ["run"]


@follows("zoo import_: evaluation")
def test_after_importing_a_library(folder: Path) -> None:
    tiny_model().save_pretrained(folder / "base")
    byte_tokenizer().save_pretrained(folder / "base")
    (folder / "library").mkdir()
    module = "model.layers.0.self_attn.q_proj"
    factors = {f"{module}.lora_a": torch.ones(32, 4), f"{module}.lora_b": torch.ones(4, 32)}
    save_file(factors, folder / "library" / "sst2.safetensors")
    printed = call("zoo", "import", "mttl", "library", "--base", "base", "--out", "a zoo")
    assert follow(printed, deep=False) == ["run"]


@follows("export: command")
def test_after_a_push_that_was_only_planned(folder: Path, hub: Hub) -> None:  # noqa: F811
    tiny_zoo(folder / "zoo", experts=2)
    printed = call(
        "export", "--method", "svd", "--whole", "--zoo", "zoo", "--out", "an out", "--push", "me/svd"
    )
    again = printed[printed.index("dry run") :]
    assert follow(again) == ["export --out"]
    assert "model.safetensors" in hub.repos["me/svd"]


def test_options_that_the_next_command_needs_too_are_in_it(folder: Path) -> None:
    zoo, also = (
        tiny_zoo(folder / "zoo", experts=1),
        given(experts="sst2", data=None, include_path=[Path("a b")]),
    )
    assert also == ["--experts", "sst2", "--include-path", "a b"]
    assert given(trust_remote_code=True) == ["--trust-remote-code"] and given(trust_remote_code=False) == []
    assert evaluation(zoo, also=also).endswith("--suites sst2 --experts sst2 --include-path 'a b'")
    assert compared(zoo, "svd", "sst2", also).endswith("--experts sst2 --include-path 'a b'")


def hints_of_commands() -> set[str]:
    """`command: function of _next` for every hint that the source of a command makes."""
    found = set()
    for path in CLI.rglob("[!_]*.py"):
        tree = ast.parse(path.read_text())
        whole = any(getattr(node, "name", None) == "command" for node in tree.body)
        for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
            words = path.relative_to(CLI).with_suffix("").parts
            name = " ".join(words if whole else (*words, function.name))
            found |= {
                f"{name}: {node.attr}"
                for node in ast.walk(function)
                if isinstance(node, ast.Attribute) and getattr(node.value, "id", None) == "_next"
                if node.attr != "given"
            }
    return found


def test_every_hint_is_followed_by_a_test_above() -> None:
    assert hints_of_commands() == FOLLOWED
    makers = {path.name for path in CLI.rglob("*.py") if "Next:" in path.read_text()}
    assert makers == {"_next.py"}
