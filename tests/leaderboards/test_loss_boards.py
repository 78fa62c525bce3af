"""Boards of losses: lower is better, by the distance to the oracle, with two standard errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from toy_cells import write, write_losses

from lorafuse_bench.leaderboards.boards.builder import build


def test_losses_rank_by_their_distance_to_the_oracle(tmp_path: Path) -> None:
    """By hand: two tasks, the least above the oracle first."""
    for label, means in {
        "base": (2.0, 3.0),
        "oracle": (1.0, 1.0),
        "mu": (1.4, 2.0),
        "svd": (1.2, 1.4),
    }.items():
        write_losses(tmp_path, label, *means)
    (board,) = build([tmp_path]).boards
    assert board.losses
    assert [(row.label, row.rank) for row in board.rows] == [
        ("oracle", None),
        ("svd", 1),
        ("mu", 2),
        ("base", None),
    ]
    svd = board.rows[1].losses
    assert svd and svd.recovered
    assert svd.mean.value == pytest.approx(1.3)
    assert svd.excess.value == pytest.approx(0.3)
    assert svd.se_tasks == pytest.approx(0.1)  # sd .1414 over the root of two
    assert svd.recovered.value == pytest.approx((0.8 + 0.8) / 2)
    assert svd.mean.se == pytest.approx(np.std([-0.01, 0.01] * 20, ddof=1) / 40**0.5 / 2**0.5)
    assert (board.rows[1].rank_low, board.rows[1].rank_high) == (1, 1)
    assert board.ranking and board.ranking.pairs[0].difference == pytest.approx(0.4)
    assert "Δ oracle" in str(build([tmp_path]))


def test_an_incomplete_cell_of_losses_is_not_ranked(tmp_path: Path) -> None:
    for label, means in {"base": (2.0, 3.0), "oracle": (1.0, 1.0), "svd": (1.2, 1.4)}.items():
        write_losses(tmp_path, label, *means)
    kept = json.loads(next(tmp_path.rglob("svd.json")).read_text())["definition"]
    write(tmp_path, "mu", {"t0": [1.0, 2.0] * 20}, suite="losses", definition=kept, loss=("t0",))
    (board,) = build([tmp_path]).boards
    mu = next(row for row in board.rows if row.label == "mu")
    assert (mu.losses, mu.rank, mu.note) == (None, None, "incomplete 1/2")


def test_a_board_of_many_tasks_shows_its_means(tmp_path: Path) -> None:
    for label, loss in {"base": 2.0, "oracle": 1.0, "svd": 1.5}.items():
        write_losses(tmp_path, label, *(loss + i for i in range(17)))
    shown = str(build([tmp_path]))
    assert "Each of the 17 tasks stands in the board's file and page." in shown
    assert "t16" not in shown and "+0.500" in shown
