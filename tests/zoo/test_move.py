"""Copies, moved zoos, and zoos that are read-only, as typed by a user."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from peft import AutoPeftModelForCausalLM
from tiny import add_router, tiny_model, tiny_zoo
from typer.testing import CliRunner

from lorafuse_bench.cli import app
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.zoo.installed import embedded_root
from lorafuse_bench.zoo.manifest import Zoo


def call(*arguments: str | Path):  # type: ignore[no-untyped-def]
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments: str | Path) -> str:
    """What the command says in one line, having exited with 2."""
    done = call(*arguments)
    assert done.exit_code == 2, done.output
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def outside(tmp_path: Path) -> Zoo:
    """A zoo whose base lies beside it."""
    zoo = add_router(tiny_zoo(tmp_path / "a" / "zoo"))
    shutil.move(zoo.root / "base", tmp_path / "a" / "base0")
    base = zoo.manifest.base.model_copy(update={"path": "../base0"})
    zoo = Zoo(zoo.root, zoo.manifest.model_copy(update={"base": base}))
    zoo.save()
    return zoo


def test_a_moved_zoo_says_what_is_missing_and_the_repair_works(tmp_path: Path) -> None:
    zoo = outside(tmp_path)
    before = zoo.sha256()
    moved = shutil.move(zoo.root, tmp_path / "moved zoo")
    said = refused("zoo", "show", moved)
    repair = f"lorafuse zoo rebase '{moved}' --base FOLDER"
    assert f"its base 'base0' is not in {moved / '..' / 'base0'}" in said and repair in said
    assert repair in refused("run", "--zoo", moved, "--methods", "base", "--out", tmp_path / "out")
    done = call("zoo", "rebase", moved, "--base", tmp_path / "a" / "base0")
    assert done.exit_code == 0, done.output
    again = Zoo.open(moved)
    assert again.base_folder().resolve() == tmp_path / "a" / "base0"
    assert again.sha256() == before
    assert again.manifest.artefacts == zoo.manifest.artefacts
    assert call("zoo", "show", moved).exit_code == 0


def test_another_base_is_not_taken_for_the_one_that_moved(tmp_path: Path) -> None:
    zoo = outside(tmp_path)
    tiny_model(seed=9).save_pretrained(tmp_path / "other")
    before = (zoo.root / "manifest.json").read_bytes()
    assert "is not the base of zoo 'tiny'" in refused("zoo", "rebase", zoo.root, "--base", tmp_path / "other")
    assert (zoo.root / "manifest.json").read_bytes() == before
    assert "say what has moved" in refused("zoo", "rebase", zoo.root)


def test_missing_parts_are_listed_each_on_a_line(tmp_path: Path) -> None:
    zoo = add_router(tiny_zoo(tmp_path))
    (tmp_path / "experts" / "mnli" / "adapter_model.safetensors").unlink()
    shutil.rmtree(tmp_path / "routers")
    done = call("zoo", "show", zoo.root)
    assert done.exit_code == 2
    router, expert = done.stderr.splitlines()
    assert "router 'moa-last': no " in router
    assert "expert 'mnli': no " in expert


def test_a_copy_can_be_written_to_and_loads_with_peft(tmp_path: Path) -> None:
    done = call("zoo", "copy", "mini", tmp_path / "copy")
    assert done.exit_code == 0, done.output
    copied = Zoo.open(tmp_path / "copy")
    assert copied.sha256() == Zoo.open("mini").sha256()
    copied.save()
    model = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "copy" / "experts" / "sst2")
    assert model.active_adapter == "default"


def test_a_copy_finds_a_base_and_data_outside_the_zoo(tmp_path: Path) -> None:
    zoo = outside(tmp_path)
    (tmp_path / "a" / "rows").mkdir()
    Zoo(zoo.root, zoo.manifest.model_copy(update={"data": "../rows"})).save()
    assert call("zoo", "copy", zoo.root, tmp_path / "b" / "c" / "copy").exit_code == 0
    copied = Zoo.open(tmp_path / "b" / "c" / "copy")
    assert copied.base_folder().resolve() == tmp_path / "a" / "base0"
    assert Path(copied.data_source) == tmp_path / "a" / "rows"
    assert "exists and is not empty" in refused("zoo", "copy", zoo.root, copied.root)


WRITERS = {
    "router": ["train", "router", "--out", "ZOO"],
    "joint": ["train", "router", "--out", "ZOO", "--training", "joint"],
    "experts": ["train", "experts", "--suite", "mtl5", "--base", "mini", "--data", "mini", "--out", "ZOO"],
    "adapter": ["train", "adapter", "--method", "lora", "--suite", "csr_mtl", "--out", "ZOO"],
    "index": ["zoo", "index", "ZOO", "--base", "mini"],
    "rebase": ["zoo", "rebase", "ZOO", "--base", "mini"],
    "build": ["zoo", "build", "mini", "--out", "ZOO"],
    "copy": ["zoo", "copy", "mini", "ZOO"],
}


@pytest.mark.parametrize("place", ["mini", "path", "below"])
@pytest.mark.parametrize("writer", WRITERS)
def test_the_embedded_zoo_is_read_only(
    writer: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By name, by its path, and in a folder below it."""
    root = embedded_root()
    if place == "below" and writer in ("router", "joint", "rebase"):
        pytest.skip("nothing to open there")
    monkeypatch.chdir(tmp_path)
    target = {"mini": "mini", "path": str(root), "below": str(root / "new")}[place]
    files = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    said = refused(*(target if word == "ZOO" else word for word in WRITERS[writer]))
    assert "zoo 'mini' belongs to an installed package and is read-only" in said
    assert "lorafuse zoo copy mini DIR" in said
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == files
    assert not any(tmp_path.iterdir())


def test_list_names_the_installed_zoos() -> None:
    assert ["mini", str(embedded_root())] in [
        line.split() for line in call("zoo", "list").stdout.splitlines()
    ]


def test_index_keeps_what_it_does_not_describe(tmp_path: Path) -> None:
    zoo = add_router(tiny_zoo(tmp_path))
    kept = {
        "name": "mine",
        "seed": 3,
        "init": "shared",
        "data": "mini",
        "max_length": 99,
        "training": {"note": "long"},
    }
    base = zoo.manifest.base.model_copy(update={"name": "Tiny LM", "make": "make it"})
    Zoo(zoo.root, zoo.manifest.model_copy(update=kept | {"base": base})).save()
    given = ["--task", "sst2=arc_e", "--task", "mnli=mnli/qnli"]
    done = call("zoo", "index", tmp_path, *given)
    assert done.exit_code == 0, done.output
    found = Zoo.open(tmp_path).manifest
    assert {key: getattr(found, key) for key in kept} == kept
    assert found.artefacts == zoo.manifest.artefacts
    assert (found.base.name, found.base.make, found.base.path) == ("Tiny LM", "make it", "base")
    tasks = {"mnli": ("mnli", "qnli"), "squad": ("squad",), "sst2": ("arc_e",)}
    assert {entry.name: entry.tasks for entry in found.experts} == tasks
    assert call("zoo", "index", tmp_path, "--base", tmp_path / "base", "--data", "hub").exit_code == 0
    again = Zoo.open(tmp_path).manifest
    assert {entry.name: entry.tasks for entry in again.experts} == tasks
    assert (again.data, again.base) == ("hub", found.base)


def test_index_takes_edited_files_as_they_are_now(tmp_path: Path) -> None:
    zoo = tiny_zoo(tmp_path)
    assert call("zoo", "index", tmp_path).exit_code == 0
    path = zoo.root / "base" / "generation_config.json"
    path.write_text(json.dumps({"temperature": 3.0}))
    with pytest.raises(LorafuseError, match=r"generation_config\.json is another file.*`lorafuse zoo index`"):
        Zoo.open(tmp_path).base_folder()
    assert call("zoo", "index", tmp_path).exit_code == 0
    assert Zoo.open(tmp_path).base_folder() == tmp_path / "base"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "sst3=piqa"], "Did you mean 'sst2'?"),
        (["--task", "sst2"], "say EXPERT=TASK"),
        (["--task", "sst2="], "say EXPERT=TASK"),
        (["--init", "sharde"], "Did you mean 'shared'?"),
    ],
)
def test_what_index_does_not_understand_is_refused(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    assert message in refused("zoo", "index", tiny_zoo(tmp_path).root, *arguments)


def test_a_folder_of_adapters_without_a_base_is_refused(tmp_path: Path) -> None:
    zoo = tiny_zoo(tmp_path)
    (zoo.root / "manifest.json").unlink()
    assert "Say with --base" in refused("zoo", "index", zoo.root)
