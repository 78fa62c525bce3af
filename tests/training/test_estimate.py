"""What training takes, said before it begins: by the sizes, and refused where memory plainly does not suffice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import tiny_model, tiny_zoo
from torch import nn
from typer.testing import CliRunner

from lorafuse_bench import cli, loading
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.memory import free_bytes
from lorafuse_bench.training import estimate
from lorafuse_bench.training.estimate import Estimate, of_reading, of_training


@pytest.fixture(autouse=True)
def _rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that takes 512³ · 2 seconds for a product of two squares of 512, so one for an operation."""
    monkeypatch.setattr(estimate, "_timed", lambda one: 2.0 * one.shape[0] ** 3 if len(one) > 1 else 0.0)


class Toy(nn.Module):
    """An embedding, which costs nothing, a frozen 4x8 map and a trained 2x4 one."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 8)
        self.frozen = nn.Linear(8, 4, bias=False).requires_grad_(False)
        self.trained = nn.Linear(4, 2, bias=False)


def test_by_hand() -> None:
    toy = Toy()
    taken = of_training(toy, 1, 10, 5, toy.trained.parameters(), torch.float32)
    operations = 10 * (4 * (32 + 8) + 2 * 8)
    assert taken.seconds == pytest.approx(operations / estimate._EFFICIENCY)
    assert taken.certain == 3 * 8 * 4  # a gradient and two moments of 8 numbers
    assert taken.likely - taken.certain == estimate._KEPT * (4 + 2) * 5 * 4
    read = of_reading(toy, 1, 10, 5)
    assert read.seconds == pytest.approx(10 * 2 * 40 / estimate._EFFICIENCY)
    assert (read.certain, read.likely) == (0, estimate._KEPT * 4 * 5 * 4)


def test_activations_are_of_the_order_that_a_pass_keeps() -> None:
    model = tiny_model("llama", layers=4)
    rows = torch.zeros(4, 32, dtype=torch.long)
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=rows)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    measured = sum(size for pointer, size in kept.items() if pointer not in own)
    taken = of_training(model, 1, rows.numel(), rows.numel(), (), torch.float32)
    assert measured / 2.5 < taken.likely < measured * 2.5


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
    ):
        done = CliRunner().invoke(cli.app, words)
        assert done.exit_code == 0, done.output
        said = [line for line in done.stderr.splitlines() if "estimated from sizes" in line]
        assert said and what in said[0], done.stderr
