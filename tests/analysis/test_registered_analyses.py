"""Analyses are found by name, say what they are and what they return, and may come from another package."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from pydantic import Field
from typer.testing import CliRunner

from lorafuse_bench.analysis import registry
from lorafuse_bench.analysis.base import Analysis, Part, Say, option
from lorafuse_bench.cli import app
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.picture import new_figure


class Total(Part):
    """A sum."""

    total: int = Field(description="the sum")


class Bare(Part):
    """A sum that nobody described."""

    total: int


class Summed(Analysis[Total]):
    """The sum of two numbers."""

    paper = "none"

    def run(self, say: Say) -> Total:
        say("adding")
        return Total(total=self.first + self.second)  # type: ignore[attr-defined]

    def figure(self, result: Total) -> Figure:
        figure, axes = new_figure()
        axes.bar([0], [result.total])
        return figure


@dataclass(frozen=True, kw_only=True)
class Theirs(Summed):
    """The sum of two numbers, of another package."""

    first: int = option(help="one number")
    second: int = option(2, "another number")
    name = "theirs"


@dataclass(frozen=True, kw_only=True)
class Undescribed(Summed):
    """The sum of two numbers."""

    name = "undescribed"

    def run(self, say: Say) -> Bare:  # type: ignore[override]
        return Bare(total=0)


@dataclass(frozen=True, kw_only=True)
class Unannotated(Summed):
    """The sum of two numbers."""

    name = "unannotated"

    def run(self, say: Say):  # type: ignore[no-untyped-def]
        return Bare(total=0)


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's own analyses, and that of another one."""
    monkeypatch.setattr(registry.ANALYSES, "_found", dict(registry.analyses()))
    registry.ANALYSES.load(EntryPoint("theirs", f"{__name__}:Theirs", "lorafuse.analyses"))


def test_every_analysis_says_what_it_is() -> None:
    listed = " ".join(call("--list").output.split())
    for name, cls in registry.analyses().items():
        assert cls.name == name and cls.summary().endswith(".")
        assert f"{name} {cls.summary()} {cls.paper}" in listed
        shown = " ".join(call(name, "--help").output.split())
        for field, info in cls.result().model_fields.items():
            assert " ".join(f"{field}: {info.description}".split()) in shown


def test_one_of_another_package_is_a_subcommand(theirs: None, tmp_path: Path) -> None:
    done = call("theirs", "3", "--second", "4", "--out", str(tmp_path))
    assert done.exit_code == 0 and done.output.startswith("adding\n"), done.output
    written = json.loads((tmp_path / "theirs.json").read_text())
    assert written == {"schema": "lorafuse.analysis.theirs/1", "total": 7}
    assert (tmp_path / "theirs.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["theirss"], "unknown analysis 'theirss'. Did you mean 'theirs'?"),
        (["theirs"], "Missing argument"),
        (["theirs", "x"], "should be a valid integer"),
        (["theirs", "1", "--third", "2"], "No such option"),
    ],
)
def test_mistakes_are_one_line(theirs: None, arguments: list[str], message: str) -> None:
    done = call(*arguments)
    assert done.exit_code == 2 and message.lower() in done.stderr.lower(), done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_what_does_not_tell_its_result_is_refused() -> None:
    with pytest.raises(LorafuseError, match="Undescribed has a result whose total nobody described"):
        registry.register(Undescribed)
    with pytest.raises(LorafuseError, match="Unannotated does not say what run returns"):
        registry.register(Unannotated)
    broken = EntryPoint("broken", "no_such_module:Analysis", "lorafuse.analyses")
    with pytest.raises(LorafuseError, match=r"'broken'.*'lorafuse.analyses' cannot be loaded"):
        registry.ANALYSES.load(broken)
    assert {"undescribed", "unannotated"}.isdisjoint(registry.analyses())


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["analyze", *arguments], env={"COLUMNS": "200"})
