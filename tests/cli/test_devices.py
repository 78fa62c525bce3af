"""Every command that takes a device or a type refuses one that there is not: one line, before any work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from tiny import tiny_zoo
from typer.testing import CliRunner

from lorafuse_bench.cli import app
from lorafuse_bench.zoo.manifest import Zoo

GIVEN = {
    "run": ["--suites", "sst2/mnli", "--zoo", "{zoo}", "--data", "mini", "--out", "{out}"],
    "fit": ["merge_sgd", "--suite", "sst2/mnli", "--zoo", "{zoo}", "--data", "mini"],
    "export": ["--method", "svd", "--out", "{out}", "--zoo", "{zoo}"],
    "leaderboard audit": ["{out}", "--zoo", "{zoo}"],
    "train adapter": ["--method", "moore", "--suite", "sst2/mnli", "--out", "{zoo}", "--data", "mini"],
    "train experts": ["--suite", "sst2/mnli", "--out", "{out}", "--base", "{zoo}/base", "--data", "mini"],
    "train router": ["--out", "{zoo}", "--data", "mini"],
    "bench train": ["--base", "{zoo}/base"],
    "bench losses": ["--zoo", "{zoo}", "--suite", "sst2/mnli", "--data", "mini"],
    "bench serve": ["--zoo", "{zoo}", "--suite", "sst2/mnli", "--backends", "hf", "--out", "{out}"],
    "plan": ["--base", "{zoo}/base", "--method", "svd", "--experts", "2"],
    "analyze conflict": ["{out}", "--base", "{zoo}/base", "--suite", "sst2/mnli", "--data", "mini"],
}
"""What a command is given beside the device; any other gets a zoo and a place, where it takes them."""
FIRST = ("analyze latency", "analyze selection", "analyze sparsity")
"""Commands that say first what this zoo lacks: an adapter, a loss matrix."""
SAID = {"--device": "device 'foo' cannot be used", "--dtype": "unknown dtype 'foo'"}


def commands(found: Any, context: Any, name: str = "") -> Iterator[tuple[str, set[str]]]:
    """Every command by its words, with its options."""
    if not hasattr(found, "list_commands"):
        yield name.strip(), {option for parameter in found.params for option in parameter.opts}
        return
    for below in found.list_commands(context):
        yield from commands(found.get_command(context, below), context, f"{name} {below}")


ROOT = typer.main.get_command(app)
TAKE = [
    pytest.param(name, options, option, id=f"{name} {option}")
    for name, options in commands(ROOT, typer.Context(ROOT))
    for option in SAID
    if option in options and name not in FIRST
]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return tiny_zoo(tmp_path_factory.mktemp("zoo"), experts=2)


@pytest.mark.parametrize(("name", "options", "option"), TAKE)
def test_what_there_is_not_is_said_in_one_line(
    zoo: Zoo, tmp_path: Path, name: str, options: set[str], option: str
) -> None:
    places = {"--zoo": "{zoo}", "--out": "{out}"}
    given = GIVEN.get(name) or [word for each in places if each in options for word in (each, places[each])]
    words = [word.format(zoo=zoo.root, out=tmp_path / "out") for word in given]
    done = CliRunner().invoke(app, [*name.split(), *words, option, "foo"])
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    assert done.exit_code == 2, done.output
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("lorafuse: ")]
    assert SAID[option] in line
