"""What training takes, said before it begins: by the sizes, and refused where memory plainly does not suffice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tiny import tiny_model, tiny_zoo
from torch import Tensor
from transformers import PreTrainedModel
from typer.testing import CliRunner

from lorafuse_bench import cli, loading
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.adapters.lora import Lora
from lorafuse_bench.fusion.adapters.trained import TrainedAdapter
from lorafuse_bench.memory import Alive, free_bytes
from lorafuse_bench.planning import Memory, Work, of_loaded
from lorafuse_bench.training import estimate
from lorafuse_bench.training.adapter_training import AdapterTraining, train_adapter
from lorafuse_bench.training.estimate import Estimate, of_reading, of_training
from lorafuse_bench.training.examples import IGNORED
from lorafuse_bench.training.expert_training import train_experts
from lorafuse_bench.training.settings import AdapterSettings, ExpertSettings


@pytest.fixture(autouse=True)
def _rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that takes 512³ · 2 seconds for a product of two squares of 512, so one for an operation."""
    monkeypatch.setattr(estimate, "_timed", lambda one: 2.0 * one.shape[0] ** 3 if len(one) > 1 else 0.0)


def test_by_hand() -> None:
    model = tiny_model("llama").requires_grad_(False)
    own = [next(model.model.layers.parameters()).requires_grad_()]
    numbers = (
        sum(p.numel() for p in model.parameters() if p.ndim > 1) - model.get_input_embeddings().weight.numel()
    )
    taken = of_training(model, 1, 10, Work(1, 10, 2, train=True), own)
    assert taken.seconds == pytest.approx(10 * (4 * numbers + 2 * own[0].numel()) / estimate._EFFICIENCY)
    assert taken.certain == 3 * own[0].nbytes  # a gradient and two moments
    read = of_reading(model, 1, 10, Work(1, 10, 2))
    assert read.seconds == pytest.approx(10 * 2 * numbers / estimate._EFFICIENCY)
    assert read.certain == 0
    alone = of_training(None, 1, 10, Work(train=True), own)
    assert (alone.certain, alone.likely) == (3 * own[0].nbytes,) * 2


@pytest.mark.parametrize("spec", ["lora:rank=4", "moore:d_t=4+d_s=4"])
def test_likely_is_what_a_step_is_measured_to_take(spec: str) -> None:
    method = registry.parse(spec)
    assert isinstance(method, TrainedAdapter)
    training = AdapterTraining(tiny_model("llama"), method, 2, 0).train()
    trained = [p for p in training.parameters() if p.requires_grad]
    held = {t.untyped_storage().data_ptr(): t.nbytes for t in (*training.parameters(), *training.buffers())}
    rows, tokens, answer = 8, 64, 4
    work = Work(rows, tokens, answer, train=True)
    taken = of_training(training.network(), 1, rows * tokens, work, trained).likely
    assert all(p.grad is None for p in trained)
    labels = torch.zeros(rows, tokens, dtype=torch.long)
    labels[:, :-answer] = IGNORED
    ids, task, real = torch.zeros_like(labels), torch.arange(rows) % 2, torch.ones_like(labels)
    real[0, :8] = 0  # rows of one length would need no mask
    with Alive() as alive:
        read = [t.detach() for t in (*training.parameters(), *training.buffers())]
        training(input_ids=ids, attention_mask=real, labels=labels, task=task)["loss"].backward()
    del read
    measured = alive.peak - sum(held.values()) + 2 * sum(p.nbytes for p in trained)
    assert taken == pytest.approx(measured, rel=0.15)


def test_a_model_that_asks_for_values_is_estimated_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    model.model.layers[0].register_forward_pre_hook(lambda _, args: print(float(args[0].sum())))
    taken = of_reading(model, 1, 10, Work(1, 10, 2))
    assert taken.likely is None
    monkeypatch.setattr(estimate, "free_bytes", lambda device: 0)
    assert "0.0 GiB more memory or more, estimated" in taken.said("reading")


def test_it_is_said_warned_of_and_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = Estimate(torch.device("cpu"), 90.0, 2**30, 3 * 2**30)
    for free in (None, 4 * 2**30):
        monkeypatch.setattr(estimate, "free_bytes", lambda device, free=free: free)
        assert taken.said("expert a") == "expert a: about 90 s and 3.0 GiB more memory, estimated from sizes"
    monkeypatch.setattr(estimate, "free_bytes", lambda device: 2 * 2**30)
    assert "; only 2.0 GiB are free on cpu. Use a smaller --batch-size" in taken.said("expert a")
    monkeypatch.setattr(estimate, "free_bytes", lambda device: 2**29)
    with pytest.raises(LorafuseError, match=r"optimiser alone take 1\.0 GiB, and 0\.5 GiB are free on cpu"):
        taken.said("expert a")


def test_free_memory_is_what_the_machine_or_its_container_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable:    500 kB\nSwapFree: 100 kB\n")
    monkeypatch.setattr("lorafuse_bench.memory._MACHINE", tmp_path / "meminfo")
    monkeypatch.setattr("lorafuse_bench.memory._CONTAINER", tmp_path)
    assert free_bytes(torch.device("cpu")) == 600 * 1024
    (tmp_path / "memory.current").write_text("300000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 50000\n")
    for limit, free in (("max", 600 * 1024), ("400000", 150_000)):
        (tmp_path / "memory.max").write_text(limit + "\n")
        assert free_bytes(torch.device("cpu")) == free
    monkeypatch.setattr("lorafuse_bench.memory._MACHINE", tmp_path / "absent")
    assert free_bytes(torch.device("cpu")) is None


def test_a_base_that_does_not_fit_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = tiny_zoo(tmp_path / "zoo", experts=1)
    size = (zoo.root / "base" / "model.safetensors").stat().st_size
    monkeypatch.setattr(loading, "free_bytes", lambda device: size // 2)
    loading.load_model(zoo.root / "base", torch.bfloat16)
    monkeypatch.setattr(loading, "free_bytes", lambda device: size // 2 - 1)
    with pytest.raises(LorafuseError, match="takes at least .* GiB of memory, and .* GiB are free"):
        loading.load_model(zoo.root / "base", torch.bfloat16)


def test_what_is_alike_is_counted_once(
    tmp_path: Path, handmade_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Experts of one command whose rows are about as long, and seeds of an adapter; another rank is not."""
    counted: list[Work] = []

    def count(model: PreTrainedModel, work: Work, trained: Sequence[Tensor]) -> Memory:
        counted.append(work)
        return of_loaded(model, work, trained)

    monkeypatch.setattr(estimate, "of_loaded", count)
    monkeypatch.setattr(estimate, "_COUNTED", {})
    base, data, said = str(tiny_zoo(tmp_path / "base", experts=0).base_folder()), str(handmade_data), []
    for rank in (2, 3):
        few = ExpertSettings(steps=1, batch_size=2, cutoff=64, rank=rank)
        train_experts(base, ["sst2", "mnli"], tmp_path / f"{rank}", data, few, report=said.append)
    assert len([line for line in said if "estimated from sizes" in line]) == 4
    assert len(counted) == 2 and counted[0] == counted[1]
    for seed in (0, 1):
        one = AdapterSettings(steps=1, batch_size=2, rows=2, cutoff=64, epochs=None, seed=seed)
        train_adapter(Lora(rank=2), "sst2", ["sst2"], base, tmp_path / f"seed{seed}", data, one, said.append)
    assert len(counted) == 3


def test_every_training_says_it_before_its_first_step(tmp_path: Path) -> None:
    zoo = tiny_zoo(tmp_path / "zoo", experts=2)
    common = ["--data", "mini", "--device", "cpu"]
    to = ["--out", str(zoo.root), *common]
    fit = [
        "fit",
        "merge_sgd",
        "--suite",
        "sst2/mnli",
        "--zoo",
        str(zoo.root),
        "--epochs",
        "1",
        "--lrs",
        "1e-2",
    ]
    for words, what in (
        (["train", "experts", "--suite", "piqa", "--steps", "1", *to], "expert piqa"),
        (["train", "adapter", "--method", "lora", "--suite", "piqa", "--steps", "1", *to], "adapter lora"),
        (["train", "router", "--prompts", "4", "--steps", "1", *to], "routers: reading"),
        ([*fit, "--rows", "8", "--steps", "1", *common], "merge_sgd"),
        (["fit", "losses", *fit[2:6], *common], "dev rows under 2 experts"),
    ):
        done = CliRunner().invoke(cli.app, words)
        assert done.exit_code == 0, done.output
        said = [line for line in done.stderr.splitlines() if "estimated from sizes" in line]
        assert said and what in said[0], done.stderr
