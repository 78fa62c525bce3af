"""Gradient checkpointing: the same gradients, fewer bytes, as planned."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adapters import method_of
from safetensors.torch import load_file
from tiny import byte_tokenizer, tiny_model
from typer.testing import CliRunner

from lorafuse_bench.cli import app
from lorafuse_bench.memory import Alive
from lorafuse_bench.planning import Work, of_loaded
from lorafuse_bench.training.adapter_training import AdapterTraining
from lorafuse_bench.training.examples import IGNORED

ROWS, TOKENS, ANSWER = 4, 64, 4


def step(training: AdapterTraining) -> tuple[dict[str, torch.Tensor], int]:
    """The gradients of one batch, and the most bytes at once."""
    ids = torch.arange(ROWS * TOKENS).reshape(ROWS, TOKENS) % 50
    labels = ids.clone()
    labels[:, :-ANSWER] = IGNORED
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0
    with Alive() as alive:
        task = torch.arange(ROWS) % 2
        training(input_ids=ids, attention_mask=mask, labels=labels, task=task)["loss"].backward()
    return {name: p.grad for name, p in training.named_parameters() if p.grad is not None}, alive.peak


@pytest.mark.parametrize("spec", ["lora:rank=2", "moore:d_t=4+d_s=2", "mixlora:rank=2+experts=4"])
def test_gradients_are_the_same_and_bytes_fewer(spec: str) -> None:
    kept, again = (
        AdapterTraining(tiny_model("llama", layers=4), method_of(spec), 2, 0).train() for _ in range(2)
    )
    again.base.recompute()
    expected, most = step(kept)
    found, least = step(again)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)
    assert least < 0.7 * most


def test_the_command_trains_to_the_same_weights(handmade_data: Path, tmp_path: Path) -> None:
    tiny_model(layers=2).save_pretrained(tmp_path / "base")
    byte_tokenizer().save_pretrained(tmp_path / "base")
    asked = (
        f"train adapter --method lora:rank=2 --suite sst2 --base {tmp_path / 'base'} --data {handmade_data}"
    )
    asked += " --steps 2 --batch-size 2 --cutoff 96 --out"
    found = []
    for name, more in (("kept", []), ("again", ["--gradient-checkpointing"])):
        done = CliRunner().invoke(app, [*asked.split(), str(tmp_path / name), *more])
        assert done.exit_code == 0, done.output
        found.append(load_file(next((tmp_path / name).rglob("adapter.safetensors"))))
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value)


def test_it_is_planned() -> None:
    training = AdapterTraining(tiny_model("llama", layers=4), method_of("lora:rank=2"), 2, 0).train()
    trained = [p for p in training.parameters() if p.requires_grad]
    work = Work(ROWS, TOKENS, ANSWER, train=True)
    before = of_loaded(training.model, work, trained).beside
    training.base.recompute()
    assert of_loaded(training.model, work, trained).beside < 0.6 * before
