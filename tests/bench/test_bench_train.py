"""`lorafuse bench train`: the same rows on both sides, less padding on ours, the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import byte_tokenizer, tiny_model
from typer.testing import CliRunner

from lorafuse_bench.bench.training import Work, padded_over_real
from lorafuse_bench.cli import app
from lorafuse_bench.device import Compute
from lorafuse_bench.tasks.rows import Row
from lorafuse_bench.training.settings import ExpertSettings


def test_padding_is_counted_over_the_same_rows() -> None:
    rows = [Row("x" * (1 + 37 * i % 99), " y", i) for i in range(64)]
    compute = Compute(torch.device("cpu"), torch.float32)
    work = Work("unused", rows, byte_tokenizer(), ExpertSettings(batch_size=4, steps=16), compute)
    found = padded_over_real(work)
    assert 1 <= found["ours"] < 1.1 < found["plain"]
    one = Work("unused", rows[:4], byte_tokenizer(), ExpertSettings(batch_size=4, steps=1), compute)
    assert padded_over_real(one)["ours"] == padded_over_real(one)["plain"]


@pytest.mark.timeout(600)
def test_the_command_times_both_loops(handmade_data: Path, tmp_path: Path) -> None:
    tiny_model(layers=2).save_pretrained(tmp_path / "base")
    byte_tokenizer().save_pretrained(tmp_path / "base")
    out = tmp_path / "train.json"
    few = ["--tasks", "sst2", "--steps", "1", "--batch", "3", "--rounds", "1", "--cutoff", "64"]
    where = ["--base", str(tmp_path / "base"), "--data", str(handmade_data), "--out", str(out)]
    done = CliRunner().invoke(app, ["bench", "train", *few, *where])
    assert done.exit_code == 0, done.output
    result = json.loads(out.read_text())
    assert result["tasks"]["sst2"]["rows"] == 3
    assert set(result["tasks"]["sst2"]["alternatives"]) == {"plain", "ours"}
    (line,) = result["targets"]
    assert line["value"] == 1 / result["tasks"]["sst2"]["alternatives"]["ours"]["ratio"]
    assert line["at_least"] == 1.6
