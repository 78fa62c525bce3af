"""Answers on disk, block by block."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import torch

from lorafuse_bench import files
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.model_wrappers import blocks
from lorafuse_bench.model_wrappers.blocks import Blocks

ASKED = ("one", "two", "three")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch is a block."""
    monkeypatch.setattr(blocks, "SECONDS", 0.0)


def test_what_was_answered_is_known_to_the_next(tmp_path: Path) -> None:
    kept = Blocks(tmp_path).call("scores", ASKED)
    kept.add({2: (-0.1, True), 0: (float("-inf"), False)})
    kept.add({})
    said: list[str] = []
    again = Blocks(tmp_path, said.append)
    known = again.call("scores", ASKED)
    assert len(known) == 2 and said == ["2 scores of an earlier run are kept"] and again.seconds > 0
    assert known[2] == [-0.1, True] and known[0] == [float("-inf"), False]
    assert known.hold([0, 2]) and not known.hold([0, 1]) and 1 not in known


@pytest.mark.parametrize(
    ("what", "asked"), [("texts", ASKED), ("scores", ASKED[:2]), ("scores", ASKED[::-1])]
)
def test_answers_to_other_requests_are_not_taken(tmp_path: Path, what: str, asked: tuple[str, ...]) -> None:
    Blocks(tmp_path).call("scores", ASKED).add({0: 1.0})
    again = Blocks(tmp_path)
    assert not len(again.call(what, asked)) and not again.seconds


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-5]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes().replace(b"2.5", b"3.5")),
        lambda path: (path.unlink(), path.mkdir()),
    ],
)
def test_a_block_that_cannot_be_read_is_answered_again(tmp_path: Path, harm: object) -> None:
    kept = Blocks(tmp_path).call("scores", ASKED)
    kept.add({0: 1.5})
    kept.add({1: 2.5})
    harm(sorted(tmp_path.iterdir())[1])  # type: ignore[operator]
    found = Blocks(tmp_path).call("scores", ASKED)
    assert 0 in found and 1 not in found
    found.add({1: 2.5})
    assert 1 in Blocks(tmp_path).call("scores", ASKED)


def test_a_block_waits_for_its_seconds_but_not_for_an_exception(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "SECONDS", 60.0)
    with suppress(KeyboardInterrupt), Blocks(tmp_path) as kept:
        kept.call("scores", ASKED).add({0: 1.0})
        assert not list(tmp_path.iterdir())
        raise KeyboardInterrupt
    assert 0 in Blocks(tmp_path).call("scores", ASKED)


def test_chance_goes_on_as_after_the_block(tmp_path: Path) -> None:
    torch.manual_seed(0)
    kept = Blocks(tmp_path).call("texts", ASKED)
    kept.add({0: torch.rand(1).item()})
    second = torch.rand(1).item()
    torch.manual_seed(0)
    assert Blocks(tmp_path).call("texts", ASKED).hold([0])
    assert torch.rand(1).item() == second


def test_a_full_disk_is_one_line_and_the_blocks_before_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    kept = Blocks(tmp_path).call("scores", ASKED)
    kept.add({0: 1.0})
    with monkeypatch.context() as context:
        context.setattr(files.os, "replace", full)
        with pytest.raises(LorafuseError, match="No space left on device. Free some space; the same command"):
            kept.add({1: 2.0})
    assert [path.suffix for path in tmp_path.iterdir()] == [".block"]
    assert len(Blocks(tmp_path).call("scores", ASKED)) == 1


def test_without_a_folder_nothing_is_kept() -> None:
    kept = Blocks()
    kept.call("scores", ASKED).add({0: 1.0})
    assert not len(kept.call("scores", ASKED))
