"""Controls on boards: beneath their method, never ranked, with the paired difference and its interval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from toy_cells import write, write_losses

from lorafuse_bench.leaderboards.boards.board import Board
from lorafuse_bench.leaderboards.boards.builder import build
from lorafuse_bench.leaderboards.boards.controls import controlled
from lorafuse_bench.tasks.suites import suite

N = 20


def board_of(out: Path, right: dict[str, Sequence[int]]) -> Board:
    """The board of one task whose base knows nothing and whose oracle 16 of 20 items."""
    for label, hits in {"base": (), "oracle": range(16), **right}.items():
        write(out, label, {"one": [float(i in hits) for i in range(N)]})
    (board,) = build([out]).boards
    return board


def test_a_control_stands_beneath_its_method_whatever_it_scores(tmp_path: Path) -> None:
    board = board_of(
        tmp_path,
        {"mu": range(8), "mu:control=random": range(12), "mu:control=budget": range(2), "svd": range(10)},
    )
    assert [(row.label, row.role, row.rank) for row in board.rows] == [
        ("oracle", "oracle", None),
        ("svd", "method", 1),
        ("mu", "method", 2),
        ("mu:control=budget", "control", None),
        ("mu:control=random", "control", None),
        ("base", "floor", None),
    ]
    assert board.ranking and len(board.ranking.pairs) == 1


def test_the_lead_is_paired_by_hand(tmp_path: Path) -> None:
    """(x - z)/y with the delta method on the same items."""
    board = board_of(tmp_path, {"mu": range(8), "mu:control=random": range(2, 7)})
    lead = next(row for row in board.rows if row.control_of).method_lead
    x, z, y = (np.array([float(i in hits) for i in range(N)]) for hits in (range(8), range(2, 7), range(16)))
    r = (x - z).mean() / y.mean()
    assert lead and lead.value == pytest.approx(r)
    assert lead.se == pytest.approx(np.std((x - z - r * y) / y.mean(), ddof=1) / N**0.5)
    ends = [f"{r + side * 1.96 * lead.se:+.3f}" for side in (-1, 1)]
    shown = str(build([tmp_path]))
    assert "+0.188" in shown and " to ".join(ends) in shown


def test_of_losses_the_lead_is_what_the_method_loses_less(tmp_path: Path) -> None:
    for label, mean in {"base": 3.0, "oracle": 1.0, "mu": 1.5, "mu:control=random": 2.75}.items():
        write_losses(tmp_path, label, mean, mean)
    (board,) = build([tmp_path]).boards
    assert [row.label for row in board.rows] == ["oracle", "mu", "mu:control=random", "base"]
    assert board.rows[2].method_lead and board.rows[2].method_lead.value == pytest.approx(1.25)


def test_of_oblivion_the_lead_is_of_the_mean_score(tmp_path: Path) -> None:
    tasks = suite("or_mtl").tasks
    for label, right in {"base": 16, "mu": 12, "mu:control=random": 4}.items():
        write(
            tmp_path,
            label,
            {key: [float(i < right) for i in range(N)] for key in tasks},
            suite="or_mtl",
        )
    (board,) = build([tmp_path]).boards
    control = next(row for row in board.rows if row.control_of == "mu")
    assert control.method_lead and control.method_lead.value == pytest.approx(0.4)


def test_a_control_without_its_method_or_its_tasks_has_no_lead(tmp_path: Path) -> None:
    board = board_of(tmp_path, {"svd:rank=2+control=random": range(4), "mu": range(8)})
    alone = next(row for row in board.rows if row.role == "control")
    assert (alone.control_of, alone.rank, alone.method_lead) == ("svd:rank=2", None, None)


def test_the_oracle_on_random_experts_is_no_reference(tmp_path: Path) -> None:
    for label, hits in {"base": (), "oracle": range(16), "oracle:control=random": range(4)}.items():
        family = {"base": "floor"}.get(label, "reference")
        write(
            tmp_path,
            label,
            {"one": [float(i in hits) for i in range(N)]},
            method={"name": label.partition(":")[0], "family": family},
        )
    (board,) = build([tmp_path]).boards
    assert [row.role for row in board.rows] == ["oracle", "control", "floor"]


@pytest.mark.parametrize(
    ("label", "of"),
    [
        ("mu", None),
        ("mu:control=random", "mu"),
        ("concat:scaling=false+control=budget", "concat:scaling=false"),
        ("ties:control=random+density=0.5", "ties:density=0.5"),
        ("=HYPERLINK(1)", None),
        ("a:", None),
        ("outofcontrol=1", None),
    ],
)
def test_what_a_label_is_a_control_of(label: str, of: str | None) -> None:
    assert controlled(label) == of
