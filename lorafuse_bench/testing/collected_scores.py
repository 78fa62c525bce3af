"""The test that the pytest plugin runs for each method whose results are named."""

from __future__ import annotations

from typing import Any


def test_scores(label: str, request: Any) -> None:
    """No task of a method's results is worse than its baseline by the baseline's margin."""
    from lorafuse_bench.leaderboards.boards.regressions import compare_with_baseline

    results, baseline = (request.config.getoption(f"lorafuse_{name}") for name in ("results", "baseline"))
    found = compare_with_baseline(results, label, baseline)
    other = [
        f"{one.task}: {one.outcome} ({one.difference:+.3f})" for one in found if one.outcome != "no worse"
    ]
    assert not other, "; ".join(other)
