"""A task's items are resampled once, whoever needs the draws: ranks, pairs of methods, the page, findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from toy_cells import write
from typer.testing import CliRunner

from lorafuse_bench.cli import app
from lorafuse_bench.leaderboards.statistics import stats


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each list of documents was resampled."""
    counted: Counter[str] = Counter()
    original = stats.bootstrap_counts

    def counting(n: int, stratum: str = "") -> Iterator[Any]:
        counted[stratum] += 1
        return original(n, stratum)

    monkeypatch.setattr(stats, "bootstrap_counts", counting)
    return counted


@pytest.mark.parametrize("page", [False, True], ids=["board", "board and page"])
def test_a_board_and_its_page_resample_each_task_once(
    tmp_path: Path, drawn: Counter[str], page: bool
) -> None:
    bleu = [[4, 4, 4, 3, 2, 1, 4, 3, 2, 1], [4, 4, 2, 1, 0, 0, 4, 3, 2, 1]]
    for label, right in (("base", 0.0), ("oracle", 1.0), ("svd", 0.5), ("mu", 0.75)):
        scores = {"one": [right, 1.0, right] * 6, "two": [1.0, right, right, right] * 5}
        write(tmp_path / "results", label, {**scores, "three": bleu * 8})
    drawn.clear()  # making the cells draws their own standard errors
    arguments = ["leaderboard", "build", str(tmp_path / "results"), "--out", str(tmp_path / "board.json")]
    done = CliRunner().invoke(app, [*arguments, *(["--html", str(tmp_path / "site")] if page else [])])
    assert done.exit_code == 0, done.output
    assert sorted(drawn.values()) == [1, 1, 1]
