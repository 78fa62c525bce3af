"""The numbers in docs/statistics.md are what the code prints."""

import doctest
import math
from pathlib import Path

from lorafuse_bench.leaderboards.statistics import stats

PAGE = Path(__file__).parents[2] / "docs" / "statistics.md"


def test_worked_examples() -> None:
    outcome = doctest.testfile(str(PAGE), module_relative=False)
    assert outcome.attempted > 10
    assert outcome.failed == 0


def test_figures_in_the_text() -> None:
    method, oracle = stats.statistic([1, 0, 1, 0, 1, 0, 0, 1]), stats.statistic([1, 1, 1, 1, 1, 0, 1, 1])
    text = PAGE.read_text()
    naive = (method.estimate().se or 0) / oracle.value
    assert f"(here {naive:.3f})" in text
    ratio = method.value / oracle.value
    independent = math.hypot(method.estimate().se or 0, ratio * (oracle.estimate().se or 0)) / oracle.value
    assert f"(here {independent:.3f})" in text
    g = (stats.Z95 * (oracle.estimate().se or 0) / oracle.value) ** 2
    assert f"here g is {g:.3f}" in text
    assert f"{stats.BOOTSTRAP_DRAWS:,} bootstrap draws" in text
    # no hit in 200 has probability 5% at the rate said to be compatible
    assert abs(0.985**200 - 0.05) < 0.002
    assert f"≤ {stats.GATE_LIMIT}" in text
