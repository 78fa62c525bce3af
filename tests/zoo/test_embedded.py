"""The zoo that is shipped: whole, small, what its generator makes, and as good as the docs say."""

from __future__ import annotations

from pathlib import Path

import pytest
from mini_scores import shortcomings
from peft import PeftModel
from pyarrow import parquet
from transformers import AutoModelForCausalLM

from lorafuse_bench.files import sha256_file
from lorafuse_bench.mini_world.choose import GOAL, exact_share, validation_rows
from lorafuse_bench.mini_world.splits import MTL7, NAMED_TASKS, MiniTask, identity, is_evaluation, task_splits
from lorafuse_bench.mini_world.world import make_world
from lorafuse_bench.zoo.manifest import EMBEDDED, Zoo

ZOO = Zoo.open(EMBEDDED)
WORLD = make_world(ZOO.manifest.seed)


def read(task: MiniTask, split: str) -> list[dict]:
    rows = parquet.read_table(ZOO.root / "data" / task.folder / f"{split}.parquet").to_pylist()
    if "translation" in task.features:
        return [{"translation": dict(row["translation"])} for row in rows]
    return rows


def test_every_file_is_the_one_that_was_pinned() -> None:
    manifest = ZOO.manifest
    assert ZOO.base_folder() == ZOO.root / "base"  # checks the base's hash
    assert [expert.name for expert in manifest.experts] == sorted(MTL7)
    for expert in manifest.experts:
        assert sha256_file(ZOO.root / expert.path / "adapter_model.safetensors") == expert.sha256
        assert expert.base_sha256 == manifest.base.sha256
    for router in manifest.artefacts:
        assert sha256_file(ZOO.root / router.path / "router.safetensors") == router.sha256


def test_it_fits_into_ten_megabytes() -> None:
    assert sum(path.stat().st_size for path in ZOO.root.rglob("*") if path.is_file()) <= 10_000_000


def test_manifest_names_no_place_outside_the_zoo() -> None:
    text = (ZOO.root / "manifest.json").read_text()
    assert ".." not in text and '"/' not in text
    for config in sorted(ZOO.root.rglob("adapter_config.json")):
        assert '"base_model_name_or_path": "base"' in config.read_text(), config


@pytest.mark.parametrize("task", NAMED_TASKS, ids=lambda task: task.key)
def test_the_generator_makes_the_shipped_rows(task: MiniTask) -> None:
    for split, rows in task_splits(task, WORLD).items():
        assert read(task, split) == rows


@pytest.mark.parametrize("task", NAMED_TASKS, ids=lambda task: task.key)
def test_no_prompt_is_in_both_splits(task: MiniTask) -> None:
    train = {identity(task, row) for row in read(task, "train")}
    held = {identity(task, row) for row in read(task, task.evaluation)}
    assert len(held) == 200 and not train & held
    assert all(map(is_evaluation, held)) and not any(map(is_evaluation, train))


def test_experts_know_their_tasks_and_the_base_does_not(tmp_path: Path) -> None:
    assert shortcomings(ZOO.root, tmp_path, limit=60) == []


@pytest.mark.parametrize("key", MTL7)
def test_an_expert_writes_its_answers_exactly_and_the_base_does_not(key: str) -> None:
    base, rows = str(ZOO.root / "base"), validation_rows(key, str(ZOO.root / "data"))[:60]
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    assert exact_share(model, base, rows) <= 0.05
    expert = PeftModel.from_pretrained(model, str(Path(ZOO.root) / "experts" / key)).eval()
    assert exact_share(expert, base, rows) >= GOAL
