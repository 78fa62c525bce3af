"""Training of multi-task adapters: the loss, the schedule, accumulation, resuming, the manifest, the refusals."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import method_of
from safetensors.torch import load_file
from tiny import tiny_model
from torch import Tensor
from typer.testing import CliRunner

from lorafuse_bench.analysis.prompts import with_experts
from lorafuse_bench.cli import app
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import sha256_file
from lorafuse_bench.fused import ADAPTER_WEIGHTS
from lorafuse_bench.tasks.rows import Rendered
from lorafuse_bench.training import adapter_training, decompositions, examples
from lorafuse_bench.training.adapter_records import CONFIG
from lorafuse_bench.training.adapter_training import AdapterTraining, train_adapter
from lorafuse_bench.training.settings import AdapterSettings
from lorafuse_bench.zoo.manifest import Zoo, weights_sha256

SETTINGS = AdapterSettings(
    learning_rate=1e-2, epochs=None, steps=8, batch_size=4, cutoff=96, checkpoints=2, rows=3
)
MOORE = "moore:d_t=4+d_s=2+reflections=2"
KEYS = ("sst2", "mnli")


def fit(base: str, out: Path, data: Path, spec: str = MOORE, **changes: Any) -> Path:
    """Train, and return the adapter's folder."""
    dtype = changes.pop("dtype", "auto")
    settings = replace(SETTINGS, **changes)
    entry = train_adapter(
        method_of(spec), "two", KEYS, base, out, str(data), settings, report=lambda _: None, dtype=dtype
    )
    return out / entry.path


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / ADAPTER_WEIGHTS)


def test_an_adapter_learns_and_the_manifest_describes_it(
    base: str, handmade_data: Path, tmp_path: Path
) -> None:
    quick = json.loads((fit(base, tmp_path / "quick", handmade_data, steps=2) / CONFIG).read_text())
    folder = fit(base, tmp_path / "long", handmade_data, steps=40)
    record = json.loads((folder / CONFIG).read_text())
    assert record["loss"] < 0.8 * quick["loss"]
    zoo = Zoo.open(tmp_path / "long")
    (entry,) = zoo.manifest.adapters
    assert (entry.name, entry.tasks, entry.trained_on) == (
        "moore/two-d_t=4-d_s=2-reflections=2",
        KEYS,
        "two",
    )
    assert entry.sha256 == sha256_file(folder / ADAPTER_WEIGHTS)
    assert entry.base_sha256 == zoo.manifest.base.sha256 == weights_sha256(base)
    assert entry.parameters == sum(t.numel() for t in weights(folder).values())
    assert entry.settings["trained"]["steps"] == 40 and zoo.manifest.experts == ()
    assert not any((tmp_path / "long" / ".training").iterdir())
    assert str(tmp_path) not in (tmp_path / "long" / "manifest.json").read_text()


def test_interrupted_training_ends_with_the_same_bytes(
    base: str, handmade_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit(base, tmp_path / "whole", handmade_data)
    forward, calls = AdapterTraining.forward, []

    def dying(self: AdapterTraining, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        calls.append(1)
        if len(calls) == 7:  # after the checkpoint of step 4
            raise KeyboardInterrupt
        return forward(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(AdapterTraining, "forward", dying)
        with pytest.raises(KeyboardInterrupt):
            fit(base, tmp_path / "cut", handmade_data)
    assert not (tmp_path / "cut" / "adapters").exists()
    counted: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(
            AdapterTraining, "forward", lambda self, *a, **k: counted.append(1) or forward(self, *a, **k)
        )
        cut = fit(base, tmp_path / "cut", handmade_data)
    assert len(counted) == 4  # steps 5 to 8 only
    for name in (ADAPTER_WEIGHTS, CONFIG):  # the loss of the whole run, too
        assert (cut / name).read_bytes() == (whole / name).read_bytes()


def test_a_checkpoint_cut_short_is_passed_over(
    base: str, handmade_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it wrote one: the one before serves, and the end is the same."""
    whole = fit(base, tmp_path / "whole", handmade_data, checkpoints=4)

    def full(*_: Any) -> None:
        raise LorafuseError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(adapter_training, "save_tensors", full)
        with pytest.raises(LorafuseError, match="no space"):
            fit(base, tmp_path / "cut", handmade_data, checkpoints=4)
    newest = max((tmp_path / "cut" / ".training").rglob("*-*.pt"))
    newest.write_bytes(newest.read_bytes()[:100])
    cut = fit(base, tmp_path / "cut", handmade_data, checkpoints=4)
    for name in (ADAPTER_WEIGHTS, CONFIG):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()


def test_rows_are_drawn_as_they_are_needed(
    base: str, handmade_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tasks of three rows each: one step of one row writes the rows of the first batches, not of every pass."""
    written: list[int] = []
    write = Rendered.__getitem__

    def spy(self: Rendered, index: Any) -> Any:
        written.append(index)
        return write(self, index)

    monkeypatch.setattr(Rendered, "__getitem__", spy)
    monkeypatch.setattr(examples, "WINDOW", 2)
    fit(base, tmp_path / "zoo", handmade_data, "lora:rank=1", steps=1, batch_size=1)
    assert len(written) == 2


def test_an_adapter_of_an_earlier_version_is_not_taken_for_this_one(
    base: str, handmade_data: Path, tmp_path: Path
) -> None:
    """MoORE's version 1 began otherwise; of any other method an older folder is kept, whatever settings it lists."""
    for spec, kept in ((MOORE, False), ("lora:rank=1", True)):
        folder = fit(base, tmp_path / spec[:4], handmade_data, spec, steps=1)
        record = json.loads((folder / CONFIG).read_text())
        del record["version"], record["settings"]["accumulation"]
        record["settings"]["bf16"] = False
        (folder / CONFIG).write_text(json.dumps(record))
        if kept:
            assert fit(base, tmp_path / spec[:4], handmade_data, spec, steps=1) == folder
        else:
            with pytest.raises(LorafuseError, match="was trained with another version than asked for now"):
                fit(base, tmp_path / spec[:4], handmade_data, spec, steps=1)
    (folder / CONFIG).write_text("[1")
    with pytest.raises(LorafuseError, match="is not JSON.* Delete its folder and train the adapter again"):
        fit(base, tmp_path / "lora", handmade_data, "lora:rank=1", steps=1)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("spec", [MOORE, "loramoe:rank=2+experts=4"])
def test_a_killed_process_is_continued_by_the_same_command(
    base: str, handmade_data: Path, tmp_path: Path, spec: str
) -> None:
    """kill -9 in the middle of training: no adapter is left behind, and the second run ends with the same bytes."""
    few = ["--suite", "sst2/mnli", "--base", base, "--data", str(handmade_data), "--steps", "200"]

    def command(out: str) -> list[str]:
        code = "from lorafuse_bench.cli import main; main()"
        arguments = [
            "--method",
            spec,
            *few,
            "--batch-size",
            "4",
            "--cutoff",
            "96",
            "--out",
            str(tmp_path / out),
        ]
        return [sys.executable, "-c", code, "train", "adapter", *arguments]

    whole = subprocess.run(command("whole"), check=True, capture_output=True, text=True)
    process = subprocess.Popen(command("cut"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list((tmp_path / "cut").glob(".training/*/checkpoint-100.pt")):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "cut" / "adapters").exists()
    again = subprocess.run(command("cut"), check=True, capture_output=True, text=True)
    steps = [int(step) for step in re.findall(r"step (\d+)/200", again.stderr)]
    assert steps and min(steps) > 50, "it began where the last checkpoint was, not at the start"
    assert min(int(step) for step in re.findall(r"step (\d+)/200", whole.stderr)) <= 50
    made = [
        next((tmp_path / out / "adapters").rglob(ADAPTER_WEIGHTS)).read_bytes() for out in ("whole", "cut")
    ]
    assert made[0] == made[1]


def test_seeds_decide_and_nothing_is_trained_twice(base: str, handmade_data: Path, tmp_path: Path) -> None:
    first = fit(base, tmp_path / "a", handmade_data, steps=2)
    before = (first / ADAPTER_WEIGHTS).stat().st_mtime_ns
    state = torch.get_rng_state()
    assert fit(base, tmp_path / "a", handmade_data, steps=2) == first
    assert (first / ADAPTER_WEIGHTS).stat().st_mtime_ns == before
    other = fit(base, tmp_path / "b", handmade_data, steps=2, seed=1)
    assert (other / ADAPTER_WEIGHTS).read_bytes() != (first / ADAPTER_WEIGHTS).read_bytes()
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(LorafuseError, match="was trained with another settings than asked for now"):
        fit(base, tmp_path / "a", handmade_data, steps=3)
    tiny_model(layers=2, seed=5).save_pretrained(tmp_path / "other")
    with pytest.raises(LorafuseError, match="is not the base of zoo 'a'"):
        fit(str(tmp_path / "other"), tmp_path / "a", handmade_data)


def test_a_slow_decomposition_is_saved_with_the_adapter(
    base: str, handmade_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It scores the same, and no SVD is computed when it is loaded."""
    plain = fit(base, tmp_path / "plain", handmade_data, steps=2)
    monkeypatch.setattr(decompositions, "SLOW_OPERATIONS", 1)
    kept = fit(base, tmp_path / "kept", handmade_data, steps=2)
    more = weights(kept).keys() - weights(plain).keys()
    assert {key.rpartition(".")[2] for key in more} == {"U", "sigma", "Vh"}
    (entry,) = Zoo.open(tmp_path / "kept").manifest.adapters
    assert entry.parameters == sum(t.numel() for t in weights(plain).values())
    logits = []
    for name in ("plain", "kept"):
        fused = with_experts(Zoo.open(tmp_path / name), names=())
        with monkeypatch.context() as patch:
            if name == "kept":
                patch.setattr(torch.linalg, "svd", None)
            fused.use(method_of(MOORE))
            fused.use(method_of(MOORE))  # folded twice from the same file
        assert fused.extra_parameters == entry.parameters
        logits.append(fused.model(input_ids=torch.arange(8)[None]).logits)
    torch.testing.assert_close(logits[0], logits[1])


@pytest.mark.parametrize("spec", [MOORE, "loramoe:rank=2+experts=4+balance=0"])
def test_portions_of_a_batch_make_the_same_steps(
    base: str, handmade_data: Path, tmp_path: Path, spec: str
) -> None:
    """Rows differ in the number of their targets: a mean of the portions' means would be another loss."""
    one = weights(fit(base, tmp_path / "one", handmade_data, spec, steps=3))
    four = weights(fit(base, tmp_path / "four", handmade_data, spec, steps=3, accumulation=4))
    for name, tensor in one.items():
        torch.testing.assert_close(four[name], tensor, rtol=1e-3, atol=2e-4)
    with pytest.raises(LorafuseError, match="4 rows does not divide into 3 portions"):
        replace(SETTINGS, accumulation=3)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_rate_warms_up_stays_and_decays(
    base: str, handmade_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulation: int
) -> None:
    """5% up, 5% down, counted in optimiser steps whatever the portions."""
    rates: list[float] = []
    update = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, *arguments: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return update(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    fit(base, tmp_path / "zoo", handmade_data, "lora:rank=1", steps=40, accumulation=accumulation)
    assert len(rates) == 40
    assert [r / 1e-2 for r in rates[:3]] == pytest.approx([0.0, 0.5, 1.0])
    assert [r / 1e-2 for r in rates[2:39]] == pytest.approx([1.0] * 37)
    assert rates[39] / 1e-2 == pytest.approx(0.5)


def test_epochs_make_steps(base: str, handmade_data: Path, tmp_path: Path) -> None:
    """Rows of both tasks, 4 a step, twice."""
    record = json.loads(
        (fit(base, tmp_path / "zoo", handmade_data, "lora:rank=1", epochs=2.0) / CONFIG).read_text()
    )
    assert record["steps"] == 2 * -(-record["rows"] // 4)


def test_the_auxiliary_loss_counts(base: str, handmade_data: Path, tmp_path: Path) -> None:
    without = fit(base, tmp_path / "a", handmade_data, "loramoe:rank=2+experts=4+balance=0", steps=2)
    with_it = fit(base, tmp_path / "b", handmade_data, "loramoe:rank=2+experts=4+balance=9", steps=2)
    assert (
        json.loads((with_it / CONFIG).read_text())["loss"]
        > json.loads((without / CONFIG).read_text())["loss"]
    )


@pytest.mark.parametrize(
    "spec", ["mixlora:rank=2+experts=4", "omoe:rank=2+experts=3", "full_finetune", MOORE]
)
def test_bf16_trains_in_fp32(base: str, handmade_data: Path, tmp_path: Path, spec: str) -> None:
    folder = fit(base, tmp_path / "zoo", handmade_data, spec, steps=2, dtype="bfloat16")
    assert json.loads((folder / CONFIG).read_text())["dtype"] == "bfloat16"
    trained = weights(folder)
    assert {tensor.dtype for tensor in trained.values()} == {torch.float32}
    assert all(torch.isfinite(tensor).all() for tensor in trained.values())


def test_the_command_trains_into_a_new_zoo_and_into_that_zoo_again(
    base: str, handmade_data: Path, tmp_path: Path
) -> None:
    out = str(tmp_path / "zoo")
    few = ["--steps", "1", "--batch-size", "2", "--suite", "mtl5", "--out", out]

    def call(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["train", "adapter", *arguments])

    first = call("--method", MOORE, "--base", base, "--data", str(handmade_data), *few)
    assert first.exit_code == 0, first.output
    assert "Next: lorafuse run" in first.stdout
    second = call("--method", "lora:rank=2", *few)
    assert second.exit_code == 0, second.output
    assert [e.method for e in Zoo.open(out).manifest.adapters] == ["moore", "lora"]
    for arguments, message in (
        (["--method", "svd", *few], "method 'svd' is not a trained adapter. These are: full_finetune"),
        (["--method", "lora", *few[:-1], str(tmp_path / "new")], "is not a zoo yet. Name a --base"),
        (["--method", "lora:targets=q_prj", *few], "Did you mean 'q_proj'"),
        (["--method", "lora", "--dtype", "fp16", *few], "unknown dtype 'fp16'"),
        (["--method", "lora", "--device", "foo", *few], "device 'foo' cannot be used"),
    ):
        done = call(*arguments)
        assert done.exit_code == 2 and message in done.stderr, done.output
