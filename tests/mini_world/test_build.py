"""Building a mini zoo: all parts, resuming, refusing to mix; and rebuilding the shipped one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from mini_scores import shortcomings

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.mini_world import build
from lorafuse_bench.mini_world.build import build_mini
from lorafuse_bench.mini_world.choose import exact_shares
from lorafuse_bench.mini_world.settings import BASE
from lorafuse_bench.mini_world.splits import MTL7
from lorafuse_bench.training.settings import ExpertSettings
from lorafuse_bench.zoo.manifest import Zoo, embedded_root

TINY = replace(
    BASE,
    hidden_size=32,
    layers=1,
    heads=2,
    key_value_heads=1,
    mlp_size=32,
    tokenizer_documents=500,
    courses=(replace(BASE.courses[0], steps=3, rhymes=5),),
    step_tokens=512,
)
SHORT = ExpertSettings(learning_rate=1e-3, steps=2, batch_size=2, rank=2, rows=8)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("zoo")
    build_mini(out, 3, 2, base=TINY, experts=SHORT, workers=1, report=lambda _: None)
    return out


def test_the_zoo_holds_what_the_manifest_says(built: Path) -> None:
    zoo = Zoo.open(built)
    assert (zoo.name, zoo.manifest.seed, zoo.manifest.init) == ("mini", 3, "shared")
    assert zoo.base_folder() == built / "base"
    assert [expert.name for expert in zoo.manifest.experts] == ["cnn_dailymail", "wmt14_en_de"]
    assert zoo.data_source == str((built / "data").resolve())
    assert zoo.manifest.training["base"]["seed"] == 3
    assert not list(built.glob(".*.unfinished"))


def test_a_finished_build_is_kept(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in built.rglob("*.safetensors")}
    said: list[str] = []
    build_mini(built, 3, 2, base=TINY, experts=SHORT, workers=1, report=said.append)
    assert {path: path.stat().st_mtime_ns for path in built.rglob("*.safetensors")} == before
    shares = [line for line in said if "validation answers" in line]
    assert [line.split(":")[0] for line in shares] == ["expert cnn_dailymail", "expert wmt14_en_de"]
    assert all("short of 95%" in line for line in shares)
    others = [line for line in said if line not in shares]
    assert all("kept" in line for line in others) and len(others) >= 4


def test_an_interrupted_stage_leaves_nothing_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(build, "pretrain", broken)
        with pytest.raises(KeyboardInterrupt):
            build_mini(tmp_path, 3, 1, base=TINY, experts=SHORT, workers=1, report=lambda _: None)
    assert (tmp_path / "data").is_dir() and not (tmp_path / "base").exists()
    build_mini(tmp_path, 3, 1, base=TINY, experts=SHORT, workers=1, report=lambda _: None)
    assert len(Zoo.open(tmp_path).manifest.experts) == 1


@pytest.mark.parametrize(("seed", "base"), [(4, TINY), (3, replace(TINY, step_tokens=256))])
def test_parts_of_another_seed_or_size_are_not_mixed(built: Path, seed: int, base: object) -> None:
    with pytest.raises(LorafuseError, match="another seed or other settings"):
        build_mini(built, seed, 2, base=base, experts=SHORT, workers=1, report=lambda _: None)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.timeout(2 * 3600)
def test_a_rebuild_is_as_good_as_what_is_shipped(tmp_path: Path) -> None:
    """Weights differ between machines, so scores are compared: no task's exact answers lose more than .05,
    and no base learns a task."""
    shipped, rebuilt = embedded_root(), tmp_path / "zoo"
    build_mini(rebuilt, 0, workers=2, report=print)
    before, after = (
        exact_shares(str(root / "base"), str(root / "data"), root / "experts", MTL7)
        for root in (shipped, rebuilt)
    )
    print(before, after)
    assert [key for key in MTL7 if after[key] < before[key] - 0.05] == []
    assert shortcomings(rebuilt, tmp_path / "results", limit=200) == []
