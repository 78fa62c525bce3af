"""Findings that an analysis measures: its numbers paired by task or expert, or what is wrong with its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.boards.board import Leaderboard
from lorafuse_bench.leaderboards.claims import Claim, Paper
from lorafuse_bench.leaderboards.claims.analysed import Analysed
from lorafuse_bench.leaderboards.claims.verdicts import Verdict, verdicts

LEFT, RIGHT = {"a": 0.9, "b": 0.7, "c": 0.8}, {"c": 0.5, "a": 0.6, "b": 0.5}
CLAIM = {"id": "one", "finding": "It is.", "source": "Table 1", "analysis": "routing-accuracy"}


def write(folder: Path, name: str = "routing-accuracy.json", **changed: Any) -> Path:
    content = {
        "schema": "lorafuse.analysis.routing_accuracy/1",
        "zoo": "toy",
        "methods": {"spectr": {"top_1": LEFT}, "arrow": {"top_1": RIGHT}},
    }
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content | changed))
    return folder


def ruled(folder: Path, **fields: Any) -> Verdict:
    claim = Claim.model_validate(CLAIM | fields)
    paper = Paper(name="toy", title="A toy", claims=(claim,))
    (verdict,) = verdicts([], Leaderboard(boards=()), [paper], Analysed.read([folder]))
    return verdict


READING = {"left": ["methods", "spectr", "top_1"], "right": ["methods", "arrow", "top_1"]}


def test_sides_are_paired_by_name_with_students_interval(tmp_path: Path) -> None:
    found = ruled(write(tmp_path), reading=READING)
    # differences .3, .2, .3: mean .8/3, sd .0577, se 1/30; t(.975, 2) = 4.303
    assert found.difference == pytest.approx(0.8 / 3)
    assert found.low == pytest.approx(0.8 / 3 - 4.302653 / 30, abs=1e-6)
    assert found.p == pytest.approx(0.015268, abs=1e-5)
    assert (found.zoo, found.ruling, found.tasks) == ("toy", "holds", ("a", "b", "c"))


def test_one_side_is_compared_with_zero(tmp_path: Path) -> None:
    near = {"spectr": {"top_1": {"a": 0.011, "b": 0.012, "c": 0.01}}}
    found = ruled(write(tmp_path, methods=near), reading={"left": READING["left"]}, relation="about")
    assert (found.right, found.ruling) == (0.0, "holds")


@pytest.mark.parametrize(
    "methods",
    [
        {"spectr": {"top_1": LEFT}},
        {"spectr": {"top_1": LEFT}, "arrow": {"top_1": {"a": 0.5}}},
        {"spectr": {"top_1": LEFT | {"a": None}}, "arrow": {"top_1": RIGHT}},
        {"spectr": {"top_1": {"a": 0.5}}, "arrow": {"top_1": {"a": 0.1}}},
        [],
    ],
)
def test_a_result_that_lacks_a_side_measures_nothing(tmp_path: Path, methods: Any) -> None:
    assert ruled(write(tmp_path, methods=methods), reading=READING).ruling == "not measured"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"schema": "lorafuse.result/3"}, "is not what `lorafuse analyze` writes"),
        ({}, "two results of the analysis routing-accuracy on the zoo toy"),
    ],
)
def test_bad_files_are_told_in_one_line(tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    write(write(tmp_path), "again.json", **changed)
    with pytest.raises(LorafuseError, match=told):
        Analysed.read([tmp_path])


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(LorafuseError, match="is not a folder"):
        Analysed.read([tmp_path / "gone"])
