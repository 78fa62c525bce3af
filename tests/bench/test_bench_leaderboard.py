"""`lorafuse bench leaderboard` at a tiny size: its results are sound, and its report is whole."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lorafuse_bench import cli
from lorafuse_bench.bench.leaderboard import write_results
from lorafuse_bench.leaderboards.boards.builder import build
from lorafuse_bench.leaderboards.publishing.verify import verify


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results")
    write_results(out, methods=3, tasks=10, items=60)
    return out


def test_the_results_are_sound_and_of_all_kinds(results: Path) -> None:
    assert verify(results).problems == ()
    (board,) = build([results]).boards
    assert [r.label for r in board.rows] == ["oracle", "method-002", "method-001", "method-000", "base"]
    assert {c.metric for c in board.columns} == {"acc", "bleu", "nll"}
    assert all(column.counts for column in board.columns)


def test_the_command_reports_seconds_and_memory(tmp_path: Path) -> None:
    out = tmp_path / "numbers.json"
    sizes = ["--methods", "2", "--tasks", "2", "--items", "20"]
    done = CliRunner().invoke(cli.app, ["bench", "leaderboard", *sizes, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "2 methods x 2 tasks x 20 items, 10,000 bootstrap draws" in done.output
    numbers = json.loads(out.read_text())
    assert numbers["seconds"] > 0
    assert numbers["peak_bytes"] > 10_000_000
    assert len(numbers["targets"]) == 2
