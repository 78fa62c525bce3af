"""Baselines: what is no worse, what is worse, what too few items can tell; by hand, by brute force, by simulation."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import norm
from toy_cells import write
from typer.testing import CliRunner

from lorafuse_bench.cli import app
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.boards.regressions import (
    compare_with_baseline,
    items_needed,
    judged,
    paired_score,
    write_baseline,
)


def gains(better: int, worse: int, n: int) -> np.ndarray:
    return np.array([1.0] * better + [-1.0] * worse + [0.0] * (n - better - worse))


@pytest.mark.parametrize(
    ("better", "worse", "n", "margin"), [(3, 5, 100, 0.05), (10, 2, 300, 0.1), (0, 0, 80, 0.05)]
)
def test_the_score_statistic_has_the_variance_of_the_hypothesis(
    better: int, worse: int, n: int, margin: float
) -> None:
    """Tango's q is where the likelihood is largest with the difference held at -margin, found by search."""

    def unlikely(q: float) -> float:
        up, rest = q - margin, 1 - 2 * q + margin
        return -(better * math.log(up) + worse * math.log(q) + (n - better - worse) * math.log(rest))

    q = minimize_scalar(unlikely, bounds=(margin + 1e-12, (1 + margin) / 2 - 1e-12), method="bounded").x
    expected = (better - worse + n * margin) / math.sqrt(n * (2 * q - margin * (1 + margin)))
    assert paired_score(better, worse, n, margin) == pytest.approx(expected, rel=1e-3)


def test_its_level_holds_at_the_margin() -> None:
    """Where the score did fall by the margin, it is called no worse about as often as alpha says."""
    rng = np.random.default_rng(0)
    n, margin = 300, 0.05
    drawn = rng.multinomial(n, [0.05, 0.10, 0.85], size=4000)
    p = norm.sf([paired_score(better, worse, n, margin) for better, worse, _ in drawn])
    assert 0.03 < (p < 0.05).mean() < 0.065


def test_outcomes() -> None:
    same, mended, broken, unclear = judged(
        [gains(0, 0, 400), gains(9, 3, 400), gains(2, 60, 400), gains(14, 24, 400)], list("abcd"), 0.05, 0.05
    )
    assert (same.outcome, mended.outcome, broken.outcome, unclear.outcome) == (
        "no worse",
        "no worse",
        "worse",
        "not shown",
    )
    assert mended.p_worse == pytest.approx(sum(math.comb(12, k) for k in range(3, 13)) / 2**12)
    assert broken.difference == pytest.approx(-58 / 400)


def test_too_few_items_are_refused_even_if_none_changed() -> None:
    needed = items_needed(0.05, 0.05)
    assert needed == math.ceil(1.6448536**2 * 0.95 / 0.05)
    assert judged([gains(0, 0, needed)], ["a"], 0.05, 0.05)[0].outcome == "no worse"
    assert judged([gains(0, 0, needed - 1)], ["a"], 0.05, 0.05)[0].outcome == "too few items"


def test_graded_items() -> None:
    rng = np.random.default_rng(1)
    small = rng.normal(0, 0.02, 400)
    (same,) = judged([small], ["a"], 0.05, 0.05)
    (fallen,) = judged([small - 0.06], ["a"], 0.05, 0.05)
    assert (same.outcome, fallen.outcome) == ("no worse", "worse")


def test_results_against_a_baselines_file(tmp_path: Path) -> None:
    right = [1.0, 0.0] * 100
    for folder, scores in (("old", right), ("new", right), ("bad", [0.0] * 200)):
        write(tmp_path / folder, "svd", {"one": scores})
    baseline = write_baseline(tmp_path / "old", tmp_path / "base.json", 0.05)
    (one,) = compare_with_baseline(tmp_path / "new", "svd", baseline)
    assert (one.n, one.better, one.worse, one.outcome) == (200, 0, 0, "no worse")
    command = ["check-scores", "--baseline", str(baseline), "--method", "svd"]
    assert CliRunner().invoke(app, [*command, str(tmp_path / "new")]).exit_code == 0
    failed = CliRunner().invoke(app, [*command, str(tmp_path / "bad")], env={"COLUMNS": "120"})
    assert failed.exit_code == 1 and "worse" in failed.output
    write(tmp_path / "fewer", "svd", {"one": right[:20]})
    with pytest.raises(LorafuseError, match="chosen for 200 items of 'one', the results have 20|n: "):
        compare_with_baseline(tmp_path / "fewer", "svd", baseline)


def test_a_tree_with_changes_makes_no_baseline(tmp_path: Path) -> None:
    write(tmp_path / "old", "svd", {"one": [1.0, 0.0] * 10})
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    with pytest.raises(LorafuseError, match="old/ is not committed"):
        write_baseline(tmp_path / "old", tmp_path / "base.json", 0.05)
    assert not (tmp_path / "base.json").exists()


@pytest.mark.parametrize("board", ["mini-mtl7", "smol-mtl7"])
def test_a_shipped_baseline_can_resolve_its_margin(board: str) -> None:
    """What is published is no worse than itself, on all seven tasks."""
    folder = Path(__file__).parents[2] / "leaderboards"
    results = folder / "published" / board / "results" / "mtl7" / f"{board.partition('-')[0]}-0"
    found = compare_with_baseline(results, "svd", folder / "baselines" / f"{board}.json")
    assert len(found) == 7 and {one.outcome for one in found} == {"no worse"}
