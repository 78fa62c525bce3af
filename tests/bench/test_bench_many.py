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

    def measured(python: str, asked: str) -> dict[str, float]:
        called.append(python)
        found = dict.fromkeys([*METHODS, "loading"], 1.0)
        if len(called) == 1:
            assert many_probe.measure(**json.loads(asked)).keys() == found.keys()
        return found if python == sys.executable else dict.fromkeys(found, 6.0)

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
    assert {line["what"].split(":")[0]: line["at_least"] for line in found["targets"]} == {
        **many.GOALS,
        "loading": 1,
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
