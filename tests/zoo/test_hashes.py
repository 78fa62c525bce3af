"""The identity of a zoo covers everything that decides scores, and moving it changes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import add_router, tiny_zoo

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.zoo.describe import describe_base, describe_expert
from lorafuse_bench.zoo.hashes import adapter_files, base_files, check_weights
from lorafuse_bench.zoo.manifest import Zoo


def edit(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def pinned(zoo: Zoo) -> Zoo:
    """The zoo with every hash recorded, as training and indexing write it."""
    base = describe_base(str(zoo.root / "base"), zoo.root)
    experts = tuple(
        describe_expert(zoo.root, entry.path, entry.name, entry.tasks, base.sha256)
        for entry in zoo.manifest.experts
    )
    Zoo(zoo.root, zoo.manifest.model_copy(update={"base": base, "experts": experts})).save()
    return Zoo.open(zoo.root)


EDITS: dict[str, Callable[[Path], None]] = {
    "experts/sst2/adapter_config.json": lambda p: edit(p, use_rslora=True),
    "experts/mnli/adapter_config.json": lambda p: edit(p, alpha_pattern={"q_proj": 99}),
    "base/config.json": lambda p: edit(p, rope_parameters={"rope_theta": 7.0, "rope_type": "default"}),
    "base/generation_config.json": lambda p: edit(p, temperature=5.0),
    "base/tokenizer_config.json": lambda p: edit(p, add_prefix_space=True),
    "base/tokenizer.json": lambda p: p.unlink(),
}


@pytest.mark.parametrize("name", EDITS)
def test_what_was_recorded_and_then_edited_is_refused_by_name(tmp_path: Path, name: str) -> None:
    zoo = pinned(tiny_zoo(tmp_path))
    zoo.base_folder()
    ExpertPool.from_zoo(zoo)
    EDITS[name](tmp_path / name)
    reader = zoo.base_folder if name.startswith("base") else lambda: ExpertPool.from_zoo(zoo)
    with pytest.raises(LorafuseError) as caught:
        reader()
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", EDITS)
def test_what_was_not_recorded_and_then_edited_changes_the_identity(tmp_path: Path, name: str) -> None:
    """Manifests of before 0.2 record the weights only."""
    zoo = tiny_zoo(tmp_path)
    before = zoo.sha256()
    EDITS[name](tmp_path / name)
    assert Zoo.open(tmp_path).sha256() != before


@pytest.mark.parametrize(
    "name", ["chat_template.jinja", "additional_chat_templates/tool.jinja", "model.py", "qwen.tiktoken"]
)
def test_a_file_that_comes_later_changes_the_identity(tmp_path: Path, name: str) -> None:
    zoo = pinned(tiny_zoo(tmp_path))
    before = zoo.sha256()
    (tmp_path / "base" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "base" / name).write_text("{{ messages }}")
    assert zoo.sha256() != before


def test_recording_hashes_leaves_the_identity_as_it_was(tmp_path: Path) -> None:
    zoo = tiny_zoo(tmp_path)
    assert pinned(zoo).sha256() == zoo.sha256()


def test_router_experts_are_covered_too(tmp_path: Path) -> None:
    zoo = add_router(tiny_zoo(tmp_path))
    shutil.copytree(tmp_path / "experts" / "sst2", tmp_path / "routers" / "moa-last" / "experts" / "sst2")
    joint = zoo.manifest.experts[0].model_copy(update={"path": "routers/moa-last/experts/sst2"})
    router = zoo.manifest.artefacts[0].model_copy(update={"adapters": (joint,)})
    zoo = Zoo(tmp_path, zoo.manifest.model_copy(update={"artefacts": (router,)}))
    before = zoo.sha256()
    edit(tmp_path / joint.path / "adapter_config.json", lora_alpha=1)
    assert zoo.sha256() != before


def test_places_are_no_part_of_the_identity(tmp_path: Path) -> None:
    zoo = pinned(tiny_zoo(tmp_path / "here"))
    before = zoo.sha256()
    shutil.move(tmp_path / "here", tmp_path / "there")
    shutil.move(tmp_path / "there" / "base", tmp_path / "base0")
    edit(tmp_path / "there" / "experts" / "sst2" / "adapter_config.json", base_model_name_or_path="/tmp/x")
    moved = Zoo.open(tmp_path / "there")
    base = moved.manifest.base.model_copy(update={"path": "../base0", "name": "base0"})
    assert Zoo(moved.root, moved.manifest.model_copy(update={"base": base})).sha256() == before


def test_an_adapters_configuration_is_hashed_by_what_it_says(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, config in (
        (one, {"r": 4, "target_modules": ["q", "v"], "base_model_name_or_path": "a"}),
        (other, {"target_modules": ["v", "q"], "r": 4}),
    ):
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=len(config)))
    assert adapter_files(one) == adapter_files(other)
    edit(other / "adapter_config.json", r=5)
    assert adapter_files(one) != adapter_files(other)
    (one / "adapter_config.json").write_text("{")
    assert set(adapter_files(one)) == {"adapter_config.json"}


def test_records_of_how_a_base_was_made_do_not_count(tmp_path: Path) -> None:
    zoo = tiny_zoo(tmp_path)
    before = base_files(tmp_path / "base")
    for name in ("build.json", "source.json", "README.md"):
        (tmp_path / "base" / name).write_text("{}")
    assert base_files(zoo.base_folder()) == before


def test_weights_beside_those_that_are_hashed_are_refused(tmp_path: Path) -> None:
    zoo = tiny_zoo(tmp_path)
    (tmp_path / "experts" / "sst2" / "adapter_model.bin").touch()
    with pytest.raises(
        LorafuseError, match=r"'sst2': .* adapter_model\.bin beside adapter_model\.safetensors"
    ):
        ExpertPool.from_zoo(zoo)
    shutil.copy(tmp_path / "experts" / "mnli" / "adapter_config.json", tmp_path / "base")
    with pytest.raises(LorafuseError, match="would load that adapter into the base"):
        zoo.base_folder()


@pytest.mark.parametrize(
    "shards", [{"w": "../other/model.safetensors"}, {"w": "missing.safetensors"}, {}, [], {"w": "pickle.bin"}]
)
def test_an_index_that_leads_to_other_weights_is_refused(tmp_path: Path, shards: object) -> None:
    (tmp_path / "pickle.bin").touch()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(LorafuseError, match="which this folder does not hold"):
        check_weights(tmp_path)
