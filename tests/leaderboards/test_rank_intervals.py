"""Rank intervals: Holm and the tests by hand, and by simulation that they hold and that they tell apart."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from toy_cells import write

from lorafuse_bench.leaderboards.boards.board import Board, Row
from lorafuse_bench.leaderboards.boards.builder import build
from lorafuse_bench.leaderboards.statistics import rank_intervals, stats


def test_holm_by_hand() -> None:
    # sorted .01 .02 .04 times 3 2 1: .03 .04 .04
    assert rank_intervals.holm(np.array([0.02, 0.04, 0.01])) == pytest.approx([0.04, 0.04, 0.03])
    # never below the one before, never above 1
    assert rank_intervals.holm(np.array([0.3, 0.31, 0.9])) == pytest.approx([0.9, 0.9, 0.9])
    assert rank_intervals.holm(np.array([0.5, 0.6])) == pytest.approx([1.0, 1.0])


def test_two_sided_by_hand() -> None:
    assert rank_intervals.two_sided(1.96, 1.0) == pytest.approx(0.05, abs=1e-4)
    assert rank_intervals.two_sided(-1.96, 1.0) == rank_intervals.two_sided(1.96, 1.0)
    assert rank_intervals.two_sided(0.0, 0.0) == 1.0
    assert rank_intervals.two_sided(0.1, 0.0) == 0.0


def test_rank_intervals_by_hand() -> None:
    # values 3, 2, 1.9, 0 with errors of differences 0.14: only the middle two cannot be told apart
    rng = np.random.default_rng(0)
    values = np.array([2.0, 0.0, 3.0, 1.9])
    found = rank_intervals.ranks(values, values[:, None] + rng.normal(0, 0.1, size=(4, 4000)))
    assert found.low.tolist() == [2, 4, 1, 2]
    assert found.high.tolist() == [3, 4, 1, 3]
    assert found.se[0, 1] == pytest.approx(0.1 * math.sqrt(2), rel=0.05)
    assert found.p[0, 3] > rank_intervals.LEVEL > found.p[0, 1]
    assert np.array_equal(found.p, found.p.T)


def test_one_method_has_rank_one() -> None:
    found = rank_intervals.ranks(np.array([0.5]), np.zeros((1, 10)))
    assert (found.low.tolist(), found.high.tolist()) == ([1], [1])


def test_equal_methods_are_seldom_told_apart() -> None:
    """Of boards of six equal methods at most 5% may make any claim; 400 of them, so at most 7.5%."""
    rng = np.random.default_rng(1)
    runs, n, m = 400, 200, 6
    claims = 0
    for _ in range(runs):
        shared = rng.random(n)
        scores = (np.where(rng.random((m, n)) < 0.5, shared, rng.random((m, n))) < 0.7).astype(float)
        # what the bootstrap's draws come to for a mean: normal with the items' covariance
        draws = rng.multivariate_normal(scores.mean(axis=1), np.cov(scores) / n, size=2000).T
        found = rank_intervals.ranks(scores.mean(axis=1), draws)
        claims += bool((found.p[np.triu_indices(m, 1)] <= rank_intervals.LEVEL).any())
    assert claims / runs <= 0.075


def test_draws_agree_with_the_delta_method() -> None:
    """The bootstrap of a ratio and its paired standard error are two ways to one number."""
    rng = np.random.default_rng(2)
    luck = rng.random(300)
    x, y = ((luck + 0.2 * rng.random(300) < level).astype(float) for level in (0.6, 0.9))
    draws = stats.resampled([x, y], "documents")
    found = np.std(draws[0] / draws[1], ddof=1)
    assert found == pytest.approx(stats.paired_ratio(stats.statistic(x), stats.statistic(y)).se, rel=0.05)


def test_draws_are_the_same_for_all_and_depend_on_the_documents() -> None:
    scores = np.random.default_rng(3).random(50)
    one, two = stats.resampled([scores, scores], "a")
    # to the last bit but one: a processor may add up two columns in different orders
    assert one == pytest.approx(two, abs=1e-14)
    assert one == pytest.approx(stats.resampled([scores], "a")[0], abs=1e-14)
    assert np.abs(one - stats.resampled([scores], "b")[0]).max() > 0.01


def test_the_draws_stay_what_they_were() -> None:
    """Published boards are rebuilt from their seed: another stream of draws would change them."""
    counts = next(stats.bootstrap_counts(6, "documents"))
    assert counts[:3].tolist() == PINNED
    assert all(c.sum(axis=1).tolist() == [6] * len(c) for c in stats.bootstrap_counts(6))
    assert sum(len(c) for c in stats.bootstrap_counts(3_000)) == stats.BOOTSTRAP_DRAWS


PINNED = [[1, 1, 1, 0, 3, 0], [1, 1, 0, 2, 2, 0], [0, 5, 0, 0, 1, 0]]


def row(board: Board, label: str) -> Row:
    return next(row for row in board.rows if row.label == label)


def test_a_board_gives_intervals_and_says_where_methods_are_equal(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    good = (rng.random(200) < 0.9).astype(float)
    close = good.copy()
    close[0] = 1 - close[0]
    poor = (rng.random(200) < 0.3).astype(float)
    for label, scores in (
        ("base", 0 * good),
        ("oracle", 0 * good + 1),
        ("a", good),
        ("b", close),
        ("c", poor),
    ):
        write(tmp_path, label, {"one": scores.tolist()})
    write(tmp_path, "twin", {"one": poor.tolist()})
    (board,) = build([tmp_path]).boards
    places = {r.label: (r.rank, r.rank_low, r.rank_high, r.tied) for r in board.rows if r.role == "method"}
    assert places["c"] == places["twin"] == (3, 3, 4, True)
    assert {places["a"][1:], places["b"][1:]} == {(1, 2, False)}
    assert row(board, "oracle").rank_low is None
    assert board.ranking
    assert len(board.ranking.pairs) == 6
    pair = next(p for p in board.ranking.pairs if {p.a, p.b} == {"a", "c"})
    assert pair.difference == pytest.approx(good.mean() - poor.mean())
    assert pair.se == pytest.approx(np.std(good - poor, ddof=1) / math.sqrt(200), rel=0.05)
    assert next(p.p for p in board.ranking.pairs if {p.a, p.b} == {"c", "twin"}) == 1.0
