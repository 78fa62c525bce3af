"""The recipe of the zoo smol, at toy size: grid, choice, experts, routers, and that it goes on where it stopped."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from lorafuse_bench.zoo.manifest import Zoo, embedded_root

RECIPE = Path(__file__).resolve().parents[2] / "zoos" / "smol" / "build.py"


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("smol_recipe", RECIPE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "smol_recipe", module)  # its dataclass looks its own module up
    spec.loader.exec_module(module)
    return module


def test_fourteen_tasks_of_two_suites(recipe: ModuleType) -> None:
    assert len(recipe.TASKS) == 14


def test_the_rule_takes_the_smallest_updates_of_those_about_as_good(recipe: ModuleType) -> None:
    table = [
        {"learning_rate": 2e-3, "steps": 800, "mean": 0.705},
        {"learning_rate": 1e-3, "steps": 800, "mean": 0.700},
        {"learning_rate": 5e-4, "steps": 800, "mean": 0.690},
    ]
    assert recipe.choose(table) == table[1]


def test_the_recipe_runs_and_is_kept(
    recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "TASKS", ("sst2", "cola"))
    monkeypatch.setattr(recipe, "GRID_TASKS", ("sst2",))
    base, out = str(embedded_root() / "base"), tmp_path / "smol"
    zoo = recipe.build(recipe.QUICK, base, "mini", out, tmp_path / "grid", seed=1, workers=1)
    assert [expert.name for expert in zoo.manifest.experts] == ["cola", "sst2"]
    assert [router.name for router in zoo.manifest.artefacts] == ["moa-last", "moa-mean"]
    assert zoo.manifest.max_length == 512
    record = zoo.manifest.training["experts"]["sst2"]
    assert record["settings"]["held_out"] == 20
    assert record["tokens"] > 0
    assert len(json.loads((tmp_path / "grid/grid.json").read_text())["grid"]) == 2
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    recipe.build(recipe.QUICK, base, "mini", out, tmp_path / "grid", seed=1, workers=1)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == before
    assert Zoo.open(out).manifest == zoo.manifest
