"""Finished answers survive: in a file as they come, or written down when the engine dies."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.model_wrappers.engine import Answer, Ask
from lorafuse_bench.model_wrappers.kept import Kept

SCORE = Ask((1, 2, 3), adapter=0, scored=1)
GREEDY = Ask((1, 2, 3), settings={"max_tokens": 4, "temperature": 0.0, "stop": ["\n"]})
ANSWER = Answer([7], [0.5], [(-1.25, 1)])


def test_answers_are_known_again_for_the_same_request_only(tmp_path: Path) -> None:
    kept = Kept({"method": "oracle"}, tmp_path / "kept.jsonl")
    kept.add(SCORE, ANSWER)
    again = Kept({"method": "oracle"}, tmp_path / "kept.jsonl")
    assert again.get(SCORE) == ANSWER
    for other in (GREEDY, Ask((1, 2, 3), adapter=1, scored=1), Ask((1, 2, 3), adapter=0, scored=2)):
        assert again.get(other) is None
    assert Kept({"method": "moa"}, tmp_path / "kept.jsonl").get(SCORE) is None


def test_a_line_cut_short_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    kept = Kept({}, path)
    kept.add(SCORE, ANSWER)
    kept.add(GREEDY, ANSWER)
    path.write_text(path.read_text()[:-20])
    again = Kept({}, path)
    assert again.get(SCORE) == ANSWER
    assert again.get(GREEDY) is None


def test_sampled_answers_are_not_kept() -> None:
    kept = Kept({})
    kept.add(Ask((1,), settings={"temperature": 0.7}), ANSWER)
    assert len(kept) == 0


def test_answers_in_memory_are_written_when_asked(tmp_path: Path) -> None:
    kept = Kept({})
    kept.add(GREEDY, ANSWER)
    assert list(tmp_path.iterdir()) == []
    path = kept.save(tmp_path / "rescued.jsonl")
    assert Kept({}, path).get(GREEDY) == ANSWER


def test_a_file_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LorafuseError, match="keep=.*cannot be read"):
        Kept({}, tmp_path)
    with pytest.raises(LorafuseError, match="cannot write keep="):
        Kept({}, tmp_path / "absent" / "kept.jsonl").add(GREEDY, ANSWER)
