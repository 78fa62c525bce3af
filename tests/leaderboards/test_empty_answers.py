"""Answers of nothing but white space: their share stands in each result, and where large in the caption."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toy_cells import cell, write

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.boards.builder import build
from lorafuse_bench.leaderboards.results.assembly import empty_share
from lorafuse_bench.leaderboards.results.cell_files import read_result

TRUNCATION = {"rule": "middle", "length": 512}


def test_the_share_is_of_written_answers() -> None:
    written = [{"resps": [[text]]} for text in ("yes", "\n\n", "", " no ")]
    assert empty_share("generate_until", written) == 0.5
    assert empty_share("multiple_choice", [{"resps": [[(-1.0, True)], [(-2.0, False)]]}]) is None
    assert empty_share("loglikelihood_rolling", [{"resps": [["-3.5"]]}]) is None


def grid(folder: Path, base: float, moa: float) -> None:
    scores = {"one": [1.0, 0.0] * 50}
    for label, share in (("base", base), ("oracle", 0.0), ("moa", moa)):
        write(folder, label, scores, task={"empty_share": share})


def test_a_caption_names_who_left_many_empty(tmp_path: Path) -> None:
    grid(tmp_path / "many", 0.62, 0.05)
    (board,) = build([tmp_path / "many"]).boards
    assert "More than 5% of the answers are empty: base (one 62%)." in board.caption
    grid(tmp_path / "few", 0.05, 0.01)
    (board,) = build([tmp_path / "few"]).boards
    assert "empty" not in board.caption


def test_results_without_these_fields_keep_their_id(tmp_path: Path) -> None:
    path = write(tmp_path, "moa", {"one": [1.0, 0.0]})
    content = json.loads(path.read_text())
    assert content.pop("truncation") is None
    for task in content["tasks"].values():
        assert task.pop("empty_share") is None
    path.write_text(json.dumps(content))
    assert read_result(path).truncation is None


def test_how_prompts_were_cut_is_an_input_and_emptiness_an_outcome() -> None:
    scores = {"one": [1.0, 0.0]}
    ids = [
        cell("moa", scores, **changes)[0].run_id
        for changes in ({}, {"task": {"empty_share": 0.5}}, {"truncation": TRUNCATION})
    ]
    assert ids[0] == ids[1] != ids[2]


def test_prompts_cut_in_two_ways_share_no_board(tmp_path: Path) -> None:
    grid(tmp_path, 0.0, 0.0)
    write(tmp_path, "concat", {"one": [1.0, 0.0] * 50}, truncation=TRUNCATION)
    with pytest.raises(LorafuseError, match="truncation"):
        build([tmp_path])
