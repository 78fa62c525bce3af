"""Checkpoints: the newest complete one is taken, and two are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lorafuse_bench.training import checkpoints


def state(step: int) -> dict[str, object]:
    return {"step": step, "weights": torch.full((100,), float(step))}


@pytest.mark.parametrize("damage", [b"", b"PK", None])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: bytes | None) -> None:
    checkpoints.save(tmp_path, 4, state(4))
    checkpoints.save(tmp_path, 10, state(10))
    path = tmp_path / "checkpoint-10.pt"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage is None else damage)
    found = checkpoints.newest(tmp_path)
    assert found is not None and found["step"] == 4
    path.write_bytes(content)
    found = checkpoints.newest(tmp_path)
    assert found is not None and torch.equal(found["weights"], torch.full((100,), 10.0))


def test_two_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 15, 100):
        checkpoints.save(tmp_path, step, state(step))
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-15.pt", "checkpoint-100.pt"}


def test_nothing_to_go_on_with(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-9.pt").write_bytes(b"half")
    assert checkpoints.newest(tmp_path) is None
    assert checkpoints.newest(tmp_path / "nowhere") is None
