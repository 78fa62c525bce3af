"""Training of experts: what is learnt, resuming, shared initialisation, the manifest, the refusals."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tiny import byte_tokenizer, tiny_model, write_adapter

from lorafuse_bench import files
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import sha256_file
from lorafuse_bench.tasks.rows import Row, training_rows
from lorafuse_bench.training import expert_training as training
from lorafuse_bench.training.examples import Batches, PadRight, prompt_of, seed_of, tokenize
from lorafuse_bench.training.expert_training import new_expert, train_experts
from lorafuse_bench.training.loop import Progress
from lorafuse_bench.training.settings import ExpertSettings
from lorafuse_bench.zoo.index import index_adapters
from lorafuse_bench.zoo.manifest import ArtefactEntry, Zoo, weights_sha256

SETTINGS = ExpertSettings(
    learning_rate=1e-2, steps=8, batch_size=2, rank=2, alpha=4, cutoff=96, checkpoints=2
)


def silent(_: str) -> None:
    """A report nobody reads."""


def weights(zoo: Path, key: str) -> dict[str, torch.Tensor]:
    return load_file(zoo / "experts" / key / "adapter_model.safetensors")


def train(base: str, out: Path, data: Path, keys: tuple[str, ...] = ("sst2",), **changes: Any) -> Zoo:
    return train_experts(base, keys, out, str(data), replace(SETTINGS, **changes), report=silent)


def test_only_the_target_is_learnt() -> None:
    tokenizer = byte_tokenizer()
    (example,) = tokenize([Row("ab:", " yes", 0)], tokenizer, 100)
    target = [*tokenizer.encode(" yes"), tokenizer.eos_token_id]
    assert example == {
        "input_ids": tokenizer.encode("ab:") + target,
        "labels": [-100, -100, -100, *target],
    }


def test_a_long_prompt_loses_its_middle_and_a_long_target_its_end() -> None:
    """Beginning and closing heading stay, by the rule that evaluation has too."""
    tokenizer = byte_tokenizer()
    rows = [Row("0123456789", " y", 0), Row("0123456789", "abcdefgh", 1)]
    short, long = tokenize(rows, tokenizer, 8)
    assert tokenizer.decode(short["input_ids"]) == "01289 y<eos>"
    assert tokenizer.decode(long["input_ids"]) == "0129abcd"
    assert tokenizer.decode(prompt_of(short)) == "01289"


def test_padding_is_masked() -> None:
    batch = PadRight(7)([{"input_ids": [1, 2], "labels": [-100, 2]}, {"input_ids": [3], "labels": [3]}])
    assert batch["input_ids"].tolist() == [[1, 2], [3, 7]]
    assert batch["labels"].tolist() == [[-100, 2], [3, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]


def test_an_expert_learns_and_the_manifest_describes_it(
    base: str, handmade_data: Path, tmp_path: Path
) -> None:
    quick = train(base, tmp_path / "quick", handmade_data, steps=2)
    long = train(base, tmp_path / "long", handmade_data, steps=60)
    record = long.manifest.training["experts"]["sst2"]
    assert record["loss"] < 0.8 * quick.manifest.training["experts"]["sst2"]["loss"]
    assert record["settings"]["steps"] == 60 and record["relative_update_norm"] > 0
    entry = long.manifest.experts[0]
    assert (entry.name, entry.task) == ("sst2", "sst2")
    assert entry.sha256 == sha256_file(tmp_path / "long" / entry.path / "adapter_model.safetensors")
    assert entry.base_sha256 == long.manifest.base.sha256 == weights_sha256(base)
    assert Zoo.open(tmp_path / "long").manifest == long.manifest
    assert Zoo.open(tmp_path / "long").data_source == str(handmade_data.resolve())
    assert not any((tmp_path / "long" / ".training").iterdir())


def test_the_global_generator_is_left_alone(base: str, handmade_data: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(base, tmp_path, handmade_data, steps=1)
    assert torch.equal(torch.rand(3), expected)


def test_interrupted_training_ends_at_the_same_weights(
    base: str, handmade_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(base, tmp_path / "whole", handmade_data, dropout=0.1)

    class Interrupt(Progress):
        def step(self, step: int, *_: Any) -> None:
            if step == 6:
                raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training, "Progress", Interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(base, tmp_path / "parts", handmade_data, dropout=0.1)
    assert not (tmp_path / "parts" / "experts").exists()
    (work,) = (tmp_path / "parts" / ".training").iterdir()
    assert [p.name for p in work.iterdir()] == ["checkpoint-4.pt"]
    train(base, tmp_path / "parts", handmade_data, dropout=0.1)
    records = [Zoo.open(tmp_path / name).manifest.training["experts"] for name in ("whole", "parts")]
    assert records[0] == records[1], "the loss too is that of all steps"
    whole, parts = weights(tmp_path / "whole", "sst2"), weights(tmp_path / "parts", "sst2")
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_finished_expert_is_kept(base: str, handmade_data: Path, tmp_path: Path) -> None:
    train(base, tmp_path, handmade_data)
    path = tmp_path / "experts" / "sst2" / "adapter_model.safetensors"
    before = path.stat().st_mtime_ns
    zoo = train(base, tmp_path, handmade_data, ("sst2", "mnli"))
    assert path.stat().st_mtime_ns == before
    assert [expert.name for expert in zoo.manifest.experts] == ["mnli", "sst2"]


def test_an_expert_of_other_settings_is_not_overwritten(
    base: str, handmade_data: Path, tmp_path: Path
) -> None:
    train(base, tmp_path, handmade_data)
    with pytest.raises(LorafuseError, match=r"sst2 was trained with another settings"):
        train(base, tmp_path, handmade_data, steps=9)


def test_experts_that_were_indexed_stay_and_are_not_trained_over(
    base: str, handmade_data: Path, tmp_path: Path
) -> None:
    write_adapter(tmp_path / "experts" / "mnli", tiny_model(layers=2), ("q_proj",))
    index_adapters(tmp_path, base)
    zoo = train(base, tmp_path, handmade_data)
    assert [expert.name for expert in zoo.manifest.experts] == ["mnli", "sst2"]
    assert zoo.manifest.init == "independent"
    with pytest.raises(LorafuseError, match="mnli exists and is not empty"):
        train(base, tmp_path, handmade_data, ("mnli",))


def test_what_is_entered_into_the_zoo_during_a_training_stays(
    base: str, handmade_data: Path, tmp_path: Path
) -> None:
    train(base, tmp_path, handmade_data, steps=1)
    router = ArtefactEntry(name="r", method="moa", path="routers/r", sha256="0" * 64, experts=(), settings={})

    def meanwhile(line: str) -> None:
        Zoo.update(tmp_path, lambda there: there.model_copy(update={"artefacts": (router,)}))  # type: ignore[union-attr]

    short = replace(SETTINGS, steps=1)
    train_experts(base, ["mnli"], tmp_path, str(handmade_data), short, report=meanwhile)
    manifest = Zoo.open(tmp_path).manifest
    assert manifest.artefacts == (router,) and [expert.name for expert in manifest.experts] == [
        "mnli",
        "sst2",
    ]


def test_a_call_hashes_the_base_once(
    base: str, handmade_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []
    monkeypatch.setattr(files, "sha256_file", lambda path: hashed.append(path) or sha256_file(path))
    train(base, tmp_path, handmade_data, ("sst2", "mnli"), steps=1)
    assert hashed.count(Path(base) / "model.safetensors") == 1


def test_what_a_kill_after_the_last_step_leaves_is_removed(
    base: str, handmade_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training.shutil, "rmtree", kill)
        with pytest.raises(KeyboardInterrupt):
            train(base, tmp_path, handmade_data)
    assert list((tmp_path / ".training").iterdir())
    train(base, tmp_path, handmade_data)
    assert not list((tmp_path / ".training").iterdir())


def test_the_manifest_says_which_rows_an_expert_has_seen(base: str, tmp_path: Path) -> None:
    settings = replace(SETTINGS, steps=1, rows=10, held_out=2)
    (entry,) = train_experts(base, ["sst2"], tmp_path, "mini", settings, report=silent).manifest.experts
    assert entry.rows == {"sst2": 8}


@pytest.mark.parametrize(("init", "same"), [("shared", True), ("independent", False)])
def test_shared_initialisation(base: str, handmade_data: Path, tmp_path: Path, init: Any, same: bool) -> None:
    zoo = train(base, tmp_path, handmade_data, ("sst2", "mnli"), init=init, steps=1)
    first, second = (record["initial_a_sha256"] for record in zoo.manifest.training["experts"].values())
    assert (first == second) is same and zoo.manifest.init == init


@pytest.mark.timeout(600)
def test_two_processes_train_the_same_experts(base: str, handmade_data: Path, tmp_path: Path) -> None:
    keys = ("sst2", "mnli")
    train_experts(base, keys, tmp_path / "two", str(handmade_data), SETTINGS, workers=2, report=silent)
    train(base, tmp_path / "one", handmade_data, keys)
    for key in keys:
        one, two = weights(tmp_path / "one", key), weights(tmp_path / "two", key)
        assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)


def test_unknown_task_and_missing_base(base: str, handmade_data: Path, tmp_path: Path) -> None:
    with pytest.raises(LorafuseError, match="Did you mean 'sst2'"):
        train(base, tmp_path, handmade_data, ("sst3",))
    with pytest.raises(LorafuseError, match="nowhere"):
        train(str(tmp_path / "nowhere"), tmp_path / "zoo", handmade_data)


def test_rows_that_are_missing_are_said_before_anything_is_trained(
    base: str, handmade_data: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(handmade_data, data)
    shutil.rmtree(next(data.glob("*paws*")))
    with pytest.raises(LorafuseError, match="paws"):
        train(base, tmp_path / "zoo", data, ("sst2", "paws"))
    assert not (tmp_path / "zoo" / "experts").exists()


def test_records_are_json_with_no_absolute_path(base: str, handmade_data: Path, tmp_path: Path) -> None:
    train(base, tmp_path, handmade_data, steps=1)
    record = json.loads((tmp_path / "experts" / "sst2" / "training.json").read_text())
    assert not Path(record["source"]).is_absolute()


def test_the_length_of_the_rows_is_the_zoos(base: str, handmade_data: Path, tmp_path: Path) -> None:
    """Evaluation reads it from the manifest; experts of another length do not join."""
    assert train(base, tmp_path, handmade_data, steps=1).manifest.max_length == 96
    with pytest.raises(LorafuseError, match="at most 96 tokens, not 64. Use --cutoff 96"):
        train(base, tmp_path, handmade_data, ("mnli",), cutoff=64)


def test_rows_longer_than_the_base_reads_are_refused(base: str, handmade_data: Path, tmp_path: Path) -> None:
    with pytest.raises(LorafuseError, match=r"reads at most 512 tokens, not 513. Use --cutoff 512"):
        train(base, tmp_path, handmade_data, cutoff=513)


def test_a_base_in_bf16_trains_experts_in_fp32(handmade_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    tiny_model(layers=2).to(torch.bfloat16).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    for saved_as, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        settings = replace(SETTINGS, saved_as=saved_as)
        out = tmp_path / saved_as
        zoo = train_experts(
            str(folder), ["sst2"], out, str(handmade_data), settings, dtype="bfloat16", report=silent
        )
        record = zoo.manifest.training["experts"]["sst2"]
        assert record["dtype"] == "bfloat16"
        assert record["relative_update_norm"] > 0
        assert {tensor.dtype for tensor in weights(out, "sst2").values()} == {dtype}


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_step_is_that_of_the_plain_loss(
    base: str, handmade_data: Path, tmp_path: Path, accumulation: int
) -> None:
    """One step of AdamW on the mean loss of all targets of the batch, computed from all logits."""
    zoo = train(
        base, tmp_path, handmade_data, steps=1, warmup_share=0.0, batch_size=4, accumulation=accumulation
    )
    tokenizer = byte_tokenizer()
    seed = seed_of("sst2", 0)
    rows = training_rows("sst2", str(handmade_data))
    batch = PadRight(256)(Batches([rows], tokenizer, 96, 4, seed)[0])
    model = new_expert(tiny_model(layers=2), "sst2", SETTINGS)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    assert zoo.manifest.training["experts"]["sst2"]["loss"] == pytest.approx(float(loss), rel=1e-5)
    found = weights(tmp_path, "sst2")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.testing.assert_close(
                found[name.replace(".default", "")], parameter.detach(), rtol=1e-3, atol=1e-5
            )


def test_progress_says_loss_speed_memory_and_time_left(
    base: str, handmade_data: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    train_experts(base, ["sst2"], tmp_path, str(handmade_data), SETTINGS, report=said.append)
    first, estimate, *between, last = said
    assert re.fullmatch(
        r"expert sst2: about [\d.]+ s and 0\.0 GiB more memory, estimated from sizes", estimate
    )
    assert first == "[1/1] expert sst2" and re.fullmatch(r"\[1/1\] expert sst2: [\d.]+ s", last)
    line = r"expert sst2: step \d/8, loss \d+\.\d{3}, [\d,]+ tokens/s, \d+\.\d GiB, [\d.]+ s left"
    assert len(between) == 8 and all(re.fullmatch(line, text) for text in between)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_kill_inside_saving_loses_one_checkpoint_at_most(
    base: str, handmade_data: Path, tmp_path: Path, call: str
) -> None:
    """SIGKILL while the second of four checkpoints is written: the first is taken, and the weights are the same."""
    settings = {"steps": 8, "checkpoints": 4}
    code = f"""
import os, signal
from pathlib import Path
from lorafuse_bench.training.expert_training import train_experts
from lorafuse_bench.training.settings import ExpertSettings

out = Path({str(tmp_path / "cut")!r})
original = os.{call}

def dying(*arguments):
    if list(out.glob(".training/*/.checkpoint-4.pt.*")):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments)

os.{call} = dying
settings = ExpertSettings(**{asdict(replace(SETTINGS, **settings))!r})
train_experts({base!r}, ["sst2"], out, {str(handmade_data)!r}, settings)
"""
    died = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    (work,) = (tmp_path / "cut" / ".training").iterdir()
    assert [path.name for path in work.glob("checkpoint-*.pt")] == ["checkpoint-2.pt"]
    cut = train(base, tmp_path / "cut", handmade_data, **settings)
    whole = train(base, tmp_path / "whole", handmade_data, **settings)
    assert cut.manifest.training["experts"] == whole.manifest.training["experts"]
    assert cut.manifest.experts[0].sha256 == whole.manifest.experts[0].sha256


def test_a_full_disk_is_said_and_nothing_is_lost(
    base: str, handmade_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(base, tmp_path / "whole", handmade_data, checkpoints=4)
    replace_file = os.replace

    def full(source: Any, target: Any) -> None:
        if str(target).endswith("checkpoint-4.pt"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace_file(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(LorafuseError, match=r"checkpoint-4.pt: No space left on device"):
            train(base, tmp_path / "cut", handmade_data, checkpoints=4)
    (work,) = (tmp_path / "cut" / ".training").iterdir()
    assert [path.name for path in work.iterdir()] == ["checkpoint-2.pt"]
    cut = train(base, tmp_path / "cut", handmade_data, checkpoints=4)
    assert cut.manifest.experts[0].sha256 == whole.manifest.experts[0].sha256


def test_all_linear_is_every_linear_map_and_recorded_by_name(
    base: str, handmade_data: Path, tmp_path: Path
) -> None:
    record = train(base, tmp_path, handmade_data, targets=("all-linear",), steps=1).manifest.training[
        "experts"
    ]
    kinds = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    named = record["sst2"]["targets"]
    assert {name.rpartition(".")[2] for name in named} == kinds and len(named) == 2 * len(kinds)
    config = json.loads((tmp_path / "experts" / "sst2" / "adapter_config.json").read_text())
    assert sorted(config["target_modules"]) == named


@pytest.mark.parametrize("targets", [("c_attn",), ("q_proj", "c_attn"), ("",), (), ("q_proj", "all-linear")])
def test_targets_that_the_base_lacks_are_refused_one_by_one(targets: tuple[str, ...]) -> None:
    named = targets[-1] if targets else ""
    with pytest.raises(
        LorafuseError, match=rf"--targets .*no linear map .*{named}.* Use all-linear, .*q_proj"
    ):
        new_expert(tiny_model(layers=1), "sst2", replace(SETTINGS, targets=targets))
