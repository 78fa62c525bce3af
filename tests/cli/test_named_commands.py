"""Every command that a message, a docstring or a page names is one that there is, with the options that it names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from lorafuse_bench.cli import SUBCOMMANDS, app
from lorafuse_bench.errors import LorafuseError

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("lorafuse_bench", "leaderboards", "model_wrappers", "tasks")
_NAMED = re.compile(rf"\blorafuse ((?:{'|'.join(SUBCOMMANDS)})\b[^`\n;]*)")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z_-]*")
COMMANDS: Any = typer.main.get_command(app)


def texts(path: Path) -> Iterator[str]:
    """The texts of a source file, a value in an f-string as X; the whole of a page."""
    if path.suffix == ".md":
        yield path.read_text().replace("\\\n", " ")
        return
    tree = ast.parse(path.read_text())
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)  # type: ignore[misc]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.value


def wrong(named: str) -> str | None:
    """What of a command is not there."""
    words, found = named.split(), COMMANDS
    context = typer.Context(found)
    while hasattr(found, "get_command") and words and not words[0].startswith("-"):
        word = words.pop(0).rstrip(".,:)'\"")
        if not word.replace("-", "").islower():  # a word that stands for one
            return None
        try:
            found = found.get_command(context, word)
        except LorafuseError:  # what is registered says itself that it knows no such name
            found = None
        if found is None:
            return f"no {word!r} in {named!r}"
    known = {option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)}
    there = set(_OPTION.findall(" ".join(words))) - known - {"--help"}
    return f"no {sorted(there)} of {named!r}" if there else None


OWN = {"docs/extending/analysis.md"}
"""Pages that write a command of one's own; tests/extending runs them."""
FILES = [
    *(path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))),
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if str(page.relative_to(ROOT)) not in OWN),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_named_commands_and_options_are_there(path: Path) -> None:
    faults = [fault for text in texts(path) for named in _NAMED.findall(text) if (fault := wrong(named))]
    assert not faults


@pytest.mark.parametrize("named", ["zoo shwo Z", "run --batch-sise 2", "train expert --out Z"])
def test_what_is_not_there_is_found(named: str) -> None:
    assert wrong(named)
