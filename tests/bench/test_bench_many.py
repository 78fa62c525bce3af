"""`bench many`: seconds a map of both sides, and ratios of one round."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lorafuse_bench.bench import many, many_probe
from lorafuse_bench.errors import LorafuseError

METHODS = ("svd", "ties", "knots", "arrow", "spectr")


def run(monkeypatch: pytest.MonkeyPatch, against: Path | None) -> tuple[dict[str, Any], list[str]]:
    """At toy size, in this process; the other side takes six times as long."""
    called = []

    def measured(python: str, asked: str) -> many.Found:
        called.append(python)
        names = (*METHODS, "loading")
        if len(called) == 1:
            here = many_probe.measure(**json.loads(asked))
            assert {name: took.keys() for name, took in here.items()} == {
                name: many_probe.UNITS.keys() for name in names
            }
        cpu, wall = (1.0, 0.5) if python == sys.executable else (6.0, 6.0)
        return {name: {"cpu_seconds": cpu, "seconds": wall} for name in names}

    monkeypatch.setattr(many, "_measured", measured)
    return many.run(METHODS, [(24, 16), (8, 16)], experts=3, rank=2, rounds=2, against=against), called


def test_seconds_are_of_one_map_and_ratios_of_both_checkouts(monkeypatch: pytest.MonkeyPatch) -> None:
    found, called = run(monkeypatch, Path("/other/python"))
    assert called == [sys.executable, "/other/python", "/other/python", sys.executable]
    assert found["cpu_seconds_a_map"]["svd"]["against"] == {
        "seconds": 6,
        "ratio": 6,
        "ratio_low": 6,
        "ratio_high": 6,
    }
    assert found["seconds_a_map"]["svd"]["against"]["ratio"] == 12
    goals = {**many.GOALS, "loading": 1}
    assert {line["what"]: line["at_least"] for line in found["targets"]} == {
        f"{name}: against / ours, {unit}": goal
        for name, goal in goals.items()
        for unit in ("cpu seconds", "seconds")
    }
    assert all(line["met"] for line in found["targets"])
    json.dumps(found, allow_nan=False)


def test_alone_there_is_nothing_to_compare_with(monkeypatch: pytest.MonkeyPatch) -> None:
    found, called = run(monkeypatch, None)
    assert called == [sys.executable] * 2
    assert found["targets"] == []
    assert found["cpu_seconds_a_map"]["loading"].keys() == {"ours"}


def test_a_python_that_cannot_run_or_fails_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(LorafuseError, match="nowhere cannot be run"):
        many._measured(str(tmp_path / "nowhere"), "{}")
    monkeypatch.setattr(many_probe, "__file__", str(tmp_path / "gone.py"))
    with pytest.raises(LorafuseError, match=r"failed: .*gone\.py"):
        many._measured(sys.executable, "{}")


def test_methods_are_checked_before_anything_runs() -> None:
    with pytest.raises(LorafuseError, match="Did you mean 'ties'"):
        many.run(["tise"])
