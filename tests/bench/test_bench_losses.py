"""The benchmark of the loss matrix: both sides find the same losses, and ours reads no token twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import tiny_zoo
from typer.testing import CliRunner

from lorafuse_bench.bench.fit import _examples
from lorafuse_bench.bench.losses import Both, loop, ours
from lorafuse_bench.bench.models import Shape
from lorafuse_bench.cli import app

SHAPE = Shape(hidden_size=64, layers=2, vocabulary=64, rank=2)


@pytest.mark.parametrize("opening", [0, 24])
def test_the_loss_matrix_is_what_pefts_loop_finds(opening: int) -> None:
    both = Both.random(SHAPE, 2)
    tasks = [[*_examples(SHAPE, 3, 40, 0, opening), *_examples(SHAPE, 1, 12, 1)]]
    read: list[int] = []
    both.fused.model.get_input_embeddings().register_forward_pre_hook(lambda _, x: read.append(x[0].numel()))
    found = ours(both, tasks)
    torch.testing.assert_close(found.float(), loop(both, tasks))
    assert found[0] != found[1]
    once = 2 * (opening + 3 * (39 - opening) + 11)  # of every row all but the last token
    assert once <= sum(read) <= once + 2 * 30  # and padding


def test_the_command_reads_a_zoos_experts_and_rows(tmp_path: Path) -> None:
    zoo, out = tiny_zoo(tmp_path / "zoo", experts=3), tmp_path / "losses.json"
    for config in zoo.root.rglob("adapter_config.json"):  # experts that were trained with dropout
        config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_dropout": 0.5}))
    few = ["--suite", "sst2/mnli", "--data", "mini", "--rows", "2", "--rounds", "1"]
    done = CliRunner().invoke(app, ["bench", "losses", "--zoo", str(zoo.root), *few, "--out", str(out)])
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    assert (found["experts"], found["tasks"], found["rows"]) == (2, 2, 2)
    assert found["largest_difference"] < 1e-4
    assert found["targets"][0]["value"] == pytest.approx(1 / found["losses"]["ours"]["ratio"])
