"""`bench prefix`: made-up requests of the right form, and a report whose ratios come from agreeing scores."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lorafuse_bench import cli
from lorafuse_bench.bench import prefix
from lorafuse_bench.bench.models import Shape
from lorafuse_bench.errors import LorafuseError

WORDS = [f"w{i}" for i in range(50)]


def test_requests_have_four_choices_and_shots_of_the_asked_kind() -> None:
    for shots, drawn in ((0, False), (2, False), (2, True)):
        rows = prefix.made_up(WORDS, 3, shots, drawn)
        contexts = [context for context, _ in groupby(rows, key=lambda row: row[0])]
        assert len(rows) == 12
        assert len(contexts) == 3
        same = {context[:30] for context in contexts}
        assert (len(same) == 1) == (shots > 0 and not drawn)
        assert prefix.made_up(WORDS, 3, shots, drawn) == rows


def test_a_tiny_run_reports_every_workload() -> None:
    report = prefix.run(
        Shape(hidden_size=128, layers=1, vocabulary=64), documents=2, batch=4, shots=1, rounds=1
    )
    assert list(report["workloads"]) == ["four_choice", "1_shot", "1_shot_drawn"]
    for result in report["workloads"].values():
        assert result["requests"] == 8
        assert result["stock_over_ours"] > 0
        assert result["largest_difference_nats"] < 1e-4
    assert [line["at_least"] for line in report["targets"]] == [2.5] * 3


def test_scores_that_differ_are_no_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix, "_AGREE", -1.0)
    with pytest.raises(LorafuseError, match="bench prefix: scores differ"):
        prefix.run(Shape(hidden_size=128, layers=1, vocabulary=64), documents=1, batch=4, shots=1, rounds=1)


def test_the_command_prints_its_targets_and_writes_the_numbers(tmp_path: Path) -> None:
    out = tmp_path / "prefix.json"
    options = ["--documents", "1", "--batch", "4", "--shots", "1", "--rounds", "1", "--out", str(out)]
    done = CliRunner().invoke(cli.app, ["bench", "prefix", *options], env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.output
    assert "four_choice: stock hf / ours" in done.output
    assert json.loads(out.read_text())["schema"] == "lorafuse.bench.prefix/1"
    refused = CliRunner().invoke(cli.app, ["bench", "prefix", "--architecture", "lama"])
    assert refused.exit_code == 2 and "llama" in refused.stderr
