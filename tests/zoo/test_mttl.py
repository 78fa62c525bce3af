"""Libraries in mttl's format: the same updates in PEFT's, no code run, faults named by file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import byte_tokenizer, tiny_model
from torch import Tensor
from typer.testing import CliRunner

from lorafuse_bench.cli import app
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.zoo.mttl import import_mttl, read_expert

Q, V = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.v_proj"
SIZES = {Q: (32, 32), V: (32, 16)}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("world") / "base"
    tiny_model(layers=2).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


def factors(seed: int, ranks: dict[str, int] | None = None) -> dict[str, Tensor]:
    """Random ones of the layout: `lora_a (in, r)`, `lora_b (r, out)`."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for module, (into, out) in SIZES.items():
        rank = (ranks or {}).get(module, 4)
        made[f"{module}.lora_a"] = torch.randn(into, rank, generator=generator)
        made[f"{module}.lora_b"] = torch.randn(rank, out, generator=generator)
    return made


def info(task: str, alpha: float) -> dict[str, Any]:
    config = {"lora_rank": 4, "lora_alpha": alpha, "modify_layers": "q_proj|v_proj"}
    return {"expert_name": task, "expert_task_name": task, "parent_node": None, "expert_config": config}


@pytest.fixture
def library(tmp_path: Path) -> Path:
    folder = tmp_path / "library"
    folder.mkdir()
    torch.save({"expert_info": info("sst2", 8), "expert_weights": factors(0)}, folder / "first.ckpt")
    torch.save(factors(1, {V: 2}), folder / "mnli.pt")
    save_file(factors(2), folder / "paws.safetensors")
    (folder / "README.md").write_text("words")
    return folder


def test_updates_are_those_of_the_files(library: Path, base: str, tmp_path: Path) -> None:
    zoo = import_mttl(str(library), tmp_path / "zoo", base, data="mini")
    assert zoo.name == "zoo" and zoo.base_folder().resolve() == Path(base)
    assert [(e.name, e.tasks) for e in zoo.manifest.experts] == [
        ("first", ("sst2",)),
        ("mnli", ("mnli",)),
        ("paws", ("paws",)),
    ]
    pool = ExpertPool.from_zoo(zoo)
    scalings = {"first": {Q: 2, V: 2}, "mnli": {Q: 4, V: 8}, "paws": {Q: 4, V: 4}}
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(9))
    for index, (name, own) in enumerate(scalings.items()):
        tensors = factors(index, {V: 2} if name == "mnli" else None)
        for module, scaling in own.items():
            expected = (x @ tensors[f"{module}.lora_a"]) @ tensors[f"{module}.lora_b"] * scaling
            stack = pool.modules[module]
            assert torch.allclose(x @ (stack.B[index] @ stack.A[index]).T, expected, atol=1e-4)


def test_alpha_of_the_user_goes_before_that_of_the_files(library: Path) -> None:
    assert read_expert(library / "first.ckpt").alpha == 8
    assert read_expert(library / "mnli.pt").alpha == 16
    assert read_expert(library / "first.ckpt", alpha=4).alpha == 4


class Evil:
    """A pickle that runs a command when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


BAD: list[tuple[Any, str]] = [
    (torch.ones(2), "holds a Tensor"),
    ({}, "holds no <module>.lora_a"),
    ({"expert_weights": None}, "holds no <module>.lora_a"),
    ({f"{Q}.lora_a": torch.ones(32, 4)}, "do not belong together"),
    ({f"{Q}.lora_a": torch.ones(32, 4), f"{Q}.lora_b": torch.ones(3, 32)}, "do not belong together"),
    ({f"{Q}.lora_a": torch.ones(4)}, "is not a matrix"),
    ({f"{Q}.bias": torch.ones(4, 4)}, "is not a matrix"),
    ({"lora_a": torch.ones(4, 4)}, "is not a matrix"),
    ({"expert_info": info("a", -1), "expert_weights": factors(0)}, "lora_alpha -1 is not"),
    ({"expert_info": info("a", "x"), "expert_weights": factors(0)}, "lora_alpha 'x' is not"),  # type: ignore[arg-type]
]


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.ckpt")
    with pytest.raises(LorafuseError, match="a.ckpt is not a regular file"):
        read_expert(tmp_path / "a.ckpt")


@pytest.mark.parametrize(("content", "said"), BAD)
def test_what_is_no_expert_is_refused_by_file(tmp_path: Path, content: Any, said: str) -> None:
    torch.save(content, tmp_path / "bad.ckpt")
    with pytest.raises(LorafuseError, match=rf"bad.ckpt:? .*{said}"):
        read_expert(tmp_path / "bad.ckpt")


def test_no_code_of_a_file_is_run(library: Path, base: str, tmp_path: Path) -> None:
    torch.save({"expert_weights": factors(0), "expert_info": Evil(tmp_path / "ran")}, library / "evil.ckpt")
    with pytest.raises(LorafuseError, match="evil.ckpt holds more than weights"):
        import_mttl(str(library), tmp_path / "zoo", base)
    assert not (tmp_path / "ran").exists() and not (tmp_path / "zoo").exists()


def test_the_command_says_what_it_made_and_refuses_what_it_cannot(
    library: Path, base: str, tmp_path: Path
) -> None:
    def call(source: Path, out: str) -> Any:
        words = ["zoo", "import", "mttl", str(source), "--out", str(tmp_path / out), "--base", base]
        return CliRunner().invoke(app, words)

    done = call(library, "zoo")
    assert done.exit_code == 0 and "3 experts" in done.stdout and "lorafuse run" in done.stdout
    again = call(library, "zoo")
    assert again.exit_code == 2 and "is not empty" in again.stderr
    (tmp_path / "empty").mkdir()
    assert "holds no experts" in call(tmp_path / "empty", "other").stderr
    torch.save(
        {
            "model.layers.9.mixer.Wqkv.lora_a": torch.ones(32, 2),
            "model.layers.9.mixer.Wqkv.lora_b": torch.ones(2, 8),
        },
        library / "strange.pt",
    )
    strange = call(library, "third")
    assert strange.exit_code == 2 and "mixer.Wqkv" in strange.stderr and not (tmp_path / "third").exists()
    (library / "mnli.bin").write_bytes(b"no weights")
    assert "two files named mnli" in call(library, "third").stderr
