"""Banks of experts: what each is trained on, how one is chosen, what the oracle takes."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from tiny import byte_tokenizer, tiny_model
from typer.testing import CliRunner

from lorafuse_bench.cli import app
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion.routing.oracle import Oracle
from lorafuse_bench.model_wrappers.hf import LorafuseLM
from lorafuse_bench.training.banks import experts_of
from lorafuse_bench.training.expert_training import train_experts
from lorafuse_bench.training.records import Wanted
from lorafuse_bench.training.settings import ExpertSettings
from lorafuse_bench.zoo.manifest import Zoo
from lorafuse_bench.zoo.pools import experts_for, named, pool_name

TASKS = ("sst2", "mnli", "paws")
SHORT = ("--steps", "1", "--batch-size", "2", "--rank", "2", "--cutoff", "96")


def call(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


def refused(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 2 and done.stderr.count("\n") == 1, done.output
    return done.stderr


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, handmade_data: Path) -> Path:
    """A zoo with all three banks, made as a user makes it."""
    root = tmp_path_factory.mktemp("library")
    tiny_model(layers=2).save_pretrained(root / "base")
    byte_tokenizer().save_pretrained(root / "base")
    train = ("train", "experts", "--suite", "/".join(TASKS), "--out", root / "zoo", *SHORT)
    call(*train, "--base", root / "base", "--data", handmade_data)
    printed = call("zoo", "cluster", root / "zoo", "--clusters", 2)
    hinted = re.findall(r"^Next: lorafuse (.*)$", printed, re.MULTILINE)
    call(*shlex.split(hinted[0]), *SHORT)
    call(*train, "--bank", "shared")
    return root / "zoo"


def test_a_cluster_s_expert_learns_from_the_rows_of_all_its_tasks(library: Path) -> None:
    manifest = Zoo.open(library).manifest
    assert manifest.clusters is not None
    bank = [entry for entry in manifest.experts if entry.bank == "mbc"]
    assert [entry.name for entry in bank] == ["mbc-0", "mbc-1"]
    assert {frozenset(entry.tasks) for entry in bank} == set(map(frozenset, manifest.clusters.members))
    private = {entry.name: entry.rows for entry in manifest.experts if entry.bank == "private"}
    for entry in (*bank, *named(Zoo.open(library), ["@shared"])):
        assert entry.rows == {task: (private[task] or {})[task] for task in entry.tasks}
        record = json.loads((library / entry.path / "training.json").read_text())
        assert record["rows"] == sum(record["rows_of_task"].values()) and record["bank"] == entry.bank


def test_the_same_command_keeps_what_is_finished(library: Path) -> None:
    before = Zoo.open(library).manifest
    said = call("train", "experts", "--suite", "/".join(TASKS), "--out", library, *SHORT, "--bank", "mbc")
    assert "expert mbc-0: already trained, kept" in said and Zoo.open(library).manifest == before


def test_results_name_the_bank_where_it_is_not_the_private_one(library: Path) -> None:
    zoo = Zoo.open(library)
    assert pool_name(zoo, TASKS) == pool_name(zoo, ()) == zoo.name
    assert pool_name(zoo, ["mbc-0"]) == f"{zoo.name}@mbc"
    assert pool_name(zoo, ["sst2", "shared", "mbc-1"]) == f"{zoo.name}@mbc@shared"


def test_a_bank_is_chosen_by_its_name_and_private_is_the_default(library: Path) -> None:
    zoo = Zoo.open(library)
    assert zoo.banks == ("private", "mbc", "shared")
    assert sorted(experts_for(zoo, TASKS)) == sorted(TASKS)
    assert experts_for(zoo, TASKS, ["@mbc"]) == ("mbc-0", "mbc-1")
    (of_sst2,) = experts_for(zoo, ["sst2"], ["@mbc"])
    assert "sst2" in next(entry.tasks for entry in zoo.manifest.experts if entry.name == of_sst2)
    assert experts_for(zoo, ["squad"], ["@mbc"]) == ("mbc-0", "mbc-1")
    assert experts_for(zoo, TASKS, ["mnli", "@shared"]) == ("mnli", "shared")
    with pytest.raises(LorafuseError, match="unknown bank 'mcb'. Did you mean 'mbc'"):
        named(zoo, ["@mcb"])


def test_the_oracle_takes_the_expert_that_has_the_row_s_task(library: Path) -> None:
    zoo = Zoo.open(library)
    pool = ExpertPool.from_zoo(zoo, ["@mbc"])
    for task in TASKS:
        own = Oracle().expert_of(pool, task)
        assert task in pool.experts[own].tasks
        assert Oracle(wrong=True).expert_of(pool, task) == 1 - own
    shared = ExpertPool.from_zoo(zoo, ["@shared"])
    assert [Oracle().expert_of(shared, task) for task in TASKS] == [0, 0, 0]
    with pytest.raises(LorafuseError, match="none is a wrong one"):
        Oracle(wrong=True).expert_of(ExpertPool.from_zoo(zoo, ["sst2", "@shared"]), "sst2")


def test_lm_eval_and_run_take_a_bank(library: Path, tmp_path: Path, handmade_data: Path) -> None:
    model = LorafuseLM("oracle", zoo=library, experts="@mbc", device="cpu")
    model.meet({"lorafuse_sst2": Mock()}, {})
    assert len(model.fused.pool) == 1 and "sst2" in model.fused.pool.experts[0].tasks
    call(
        *("run", "--zoo", library, "--methods", "oracle", "--suites", "sst2/paws", "--experts", "@shared"),
        *("--limit", 1, "--data", handmade_data, "--out", tmp_path),
    )
    (path,) = tmp_path.rglob("oracle.json")
    result = json.loads(path.read_text())
    assert [expert["name"] for expert in result["experts"]] == ["shared"]
    assert result["zoo"]["name"] == f"{Zoo.open(library).name}@shared"


def test_show_lists_banks(library: Path) -> None:
    shown = call("zoo", "show", library)
    assert "expert @mbc" in shown and "expert @shared" in shown and "cluster 0: " in shown


def test_a_bank_that_is_not_there_says_how_to_train_it(tmp_path: Path, library: Path) -> None:
    with pytest.raises(LorafuseError, match="has no clusters of experts"):
        experts_of("mbc", TASKS, tmp_path)
    with pytest.raises(LorafuseError, match=r"no cluster of .* has squad.*zoo cluster"):
        experts_of("mbc", (*TASKS, "squad"), library)
    said = refused("run", "--zoo", "mini", "--suites", "sst2", "--experts", "@mbc", "--out", tmp_path)
    assert "zoo 'mini' has no bank 'mbc'" in said and "train experts --bank mbc" in said


def test_clusters_of_experts_that_changed_are_refused(library: Path, tmp_path: Path) -> None:
    zoo = Zoo.open(library)
    changed = named(zoo)[0].model_copy(update={"sha256": "0" * 64})
    entries = (changed, *named(zoo)[1:])
    (tmp_path / "manifest.json").write_text(
        zoo.manifest.model_copy(update={"experts": entries}).model_dump_json(by_alias=True)
    )
    with pytest.raises(LorafuseError, match="changed since it was clustered"):
        experts_of("mbc", TASKS, tmp_path)


def test_rows_of_several_tasks_are_mixed_in_training(
    library: Path, tmp_path: Path, handmade_data: Path
) -> None:
    base, data = str(library.parent / "base"), str(handmade_data)
    settings = ExpertSettings(steps=4, batch_size=2, rank=2, cutoff=96, learning_rate=1e-2)
    wanted = [Wanted("both", ("sst2", "mnli"), "shared"), Wanted("again", ("sst2", "mnli"), "shared")]
    zoo = train_experts(base, wanted, tmp_path, data, settings, report=lambda _: None)
    pool = ExpertPool.from_zoo(zoo, ["@shared"])
    assert all(torch.isfinite(stack.B).all() and stack.B.abs().sum() for stack in pool.modules.values())
    assert zoo.manifest.experts[1].tasks == ("sst2", "mnli")
