"""The benchmark of fits at toy size: what is timed runs."""

from __future__ import annotations

import pytest

from lorafuse_bench.bench.fit import memory, run
from lorafuse_bench.bench.models import Shape

SHAPE = Shape(hidden_size=64, layers=2, vocabulary=64, rank=2)


def test_every_goal_is_measured() -> None:
    found = run(SHAPE, experts=2, batch=2, tokens=8, matrix=2, rows=2, rounds=1, library=3)
    assert len(found["targets"]) == 8
    assert all(line["value"] > 0 for line in found["targets"])


def test_memory_counts_what_is_held_once() -> None:
    """One stack holds the factors, which the updates of rows and of gates share; a merge holds one adapter more."""
    found = memory(SHAPE, 16)
    assert found["merge_sgd"] == pytest.approx(1 + 1 / 16)
    assert found["losses"] == 1
    assert found["routing_sgd"] == pytest.approx(1, rel=1e-3)  # and a byte an expert: whether it is absent
    assert 1 < found["loading"] < 1.2  # one expert's file is open at a time
