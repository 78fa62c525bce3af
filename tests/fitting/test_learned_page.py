"""The commands of docs/learned-fusion.md, each at toy size."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from tiny import byte_tokenizer, tiny_zoo
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

from lorafuse_bench.cli import app
from lorafuse_bench.zoo.manifest import Zoo

PAGE = (Path(__file__).parents[2] / "docs" / "learned-fusion.md").read_text()
BEFORE, PHI, AFTER = re.split(r"^(## Flan with Phi-2\n.*?)(?=^## )", PAGE, flags=re.MULTILINE | re.DOTALL)
SMALL = "--steps 2 --rows 4 --batch-size 2"
FAST = {
    "train": f"{SMALL} --device cpu",
    "fit": f"{SMALL} --dev 2 --lrs 0.1 --device cpu",
    "run": "--limit 1 --device cpu",
    "leaderboard": "--allow-limit",
    "analyze losses": "",
    "analyze connectivity": "--samples 1 --points 2 --device cpu",
    "analyze calibration": "--samples 1 --k 1,2 --device cpu",
}
FLAN = ("glue_sst2_2_0_0", "cot_gsm8k", "true_case")
MAPS = {"q_proj": (32, 32), "k_proj": (32, 32), "v_proj": (32, 32), "dense": (32, 32)}


def commands(text: str, pattern: str) -> list[str]:
    return re.findall(rf"^lorafuse {pattern}.*$", text, re.MULTILINE)


def run(command: str, own: Mapping[str, str], also: str = "") -> None:
    """A command of the page with other words in place of some, and few steps and rows."""
    words = [own.get(word, word) for word in shlex.split(command, comments=True)[1:]]
    words = [re.sub(r"clusters=\d+", "clusters=2", word) for word in words]
    fast = FAST.get(" ".join(words[:2]), FAST.get(words[0], ""))
    done = CliRunner().invoke(app, [*words, *fast.split(), *also.split()])
    assert done.exit_code == 0, f"{command}\n{done.output}"


@pytest.mark.timeout(600)
def test_the_commands_of_the_page_run_one_after_the_other(tmp_path: Path) -> None:
    zoo = tiny_zoo(tmp_path / "zoo", experts=2)
    own = {"mtl7": "sst2/mnli", "zoo": str(zoo.root), "results": str(tmp_path / "results")}
    shown = commands(BEFORE + AFTER, "(?:fit|run) .*--zoo ")
    assert len(shown) > 8
    for command in shown:
        run(command, own, "--data mini")


@pytest.fixture
def phi(tmp_path: Path) -> dict[str, str]:
    """A base of Phi's make, a library in mttl's layout, and rows in Flan's: what stands in for the page's names."""
    config = AutoConfig.for_model(
        "phi",
        vocab_size=257,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=256,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    byte_tokenizer().save_pretrained(tmp_path / "base")
    library = tmp_path / "library"
    library.mkdir()
    for i, task in enumerate(FLAN):
        told = {"expert_name": task, "expert_task_name": task, "expert_config": {"lora_alpha": 16}}
        torch.save({"expert_info": told, "expert_weights": factors(i)}, library / f"{task}.ckpt")
    rows = [
        {"source": f"{split} {i} of {task}?", "target": f"{i}", "task_name": task, "split": split}
        for task in FLAN
        for split, count in (("train", 10), ("validation", 1), ("test", 2))
        for i in range(count)
    ]
    folder = tmp_path / "data" / "sordonia__flan-10k-flat" / "default"
    folder.mkdir(parents=True)
    parquet.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    made = {name: str(tmp_path / name) for name in ("phi2", "results", "figures", "site", "leaderboard.json")}
    return made | {
        "LIBRARY": str(library),
        "microsoft/phi-2": str(tmp_path / "base"),
        "flan": "/".join(FLAN),
        "10": "2",
    }


def factors(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {f"model.layers.{i}.self_attn.{name}": MAPS[name] for i in range(2) for name in MAPS}
    return {
        f"{module}.{half}": torch.randn(*shape, generator=generator) * 0.1
        for module, (into, out) in shapes.items()
        for half, shape in (("lora_a", (into, 4)), ("lora_b", (4, out)))
    }


@pytest.mark.timeout(600)
def test_flan_with_phi_2_as_the_page_has_it(
    phi: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAFUSE_DATA", str(tmp_path / "data"))
    for command in commands(PHI, ""):
        run(command, phi)
    zoo = Zoo.open(tmp_path / "phi2")
    assert set(zoo.banks) == {"private", "mbc", "shared"}
    fits = {entry.method for entry in zoo.manifest.artefacts}
    assert {"ensemble", "distill", "merge_sgd", "routing_sgd", "hc", "arrow_hc", "losses"} <= fits
    drawn = {path.stem for path in (tmp_path / "figures").glob("*.json")}
    assert drawn == {"losses", "selection", "sparsity", "connectivity", "calibration"}
