"""Two experts may serve one task: the oracle is told which, in one line, by both routes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from one_map import random_experts
from stock import stock
from tiny import tiny_zoo
from typer.testing import CliRunner

from lorafuse_bench.cli import app
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion.routing.oracle import Oracle
from lorafuse_bench.leaderboards.results.cell_files import read_result
from lorafuse_bench.leaderboards.results.lm_eval_results import read_lm_eval
from lorafuse_bench.zoo.manifest import Zoo


@pytest.fixture
def pool() -> ExpertPool:
    """Three experts, of which the first two serve the task of the first."""
    experts = random_experts(3)
    experts[1] = replace(experts[1], tasks=experts[0].tasks)
    return ExpertPool(experts)


def test_the_expert_named_serves_the_task(pool: ExpertPool) -> None:
    shared, alone = pool.experts[0].tasks[0], pool.experts[2].tasks[0]
    for place in (0, 1):
        told = Oracle(expert=pool.names[place])
        told.check(pool)
        told.check_tasks(pool, [shared, alone])
        assert [told.expert_of(pool, task) for task in (shared, alone)] == [place, 2]
    assert Oracle(expert=f"{pool.names[1]}/{pool.names[2]}").expert_of(pool, shared) == 1


def test_where_none_is_named_one_line_says_how(pool: ExpertPool) -> None:
    shared = pool.experts[0].tasks[0]
    for told in (Oracle(), Oracle(expert=f"{pool.names[0]}/{pool.names[1]}")):
        with pytest.raises(
            LorafuseError, match=f"task '{shared}' is served by experts e0, e1. Choose one"
        ) as error:
            told.check_tasks(pool, [shared])
        assert "oracle:expert=e0 (of lm_eval: method=oracle,expert=e0)" in str(error.value)
    with pytest.raises(LorafuseError, match="unknown expert 'e7'"):
        Oracle(expert="e7").check(pool)


def test_both_routes_ask_and_record_it(tmp_path: Path) -> None:
    zoo = tiny_zoo(tmp_path / "zoo", experts=3)
    first, second, third = zoo.manifest.experts
    twice = (first, second.model_copy(update={"tasks": ("sst2",)}), third)
    Zoo(zoo.root, zoo.manifest.model_copy(update={"experts": twice})).save()
    arguments = ["run", "--zoo", str(zoo.root), "--suites", "sst2", "--data", "mini", "--limit", "1"]
    arguments += ["--out", str(tmp_path / "out"), "--methods"]
    done = CliRunner().invoke(app, [*arguments, "oracle"])
    assert done.exit_code == 2 and "oracle:expert=sst2" in done.stderr and not (tmp_path / "out").exists()
    done = CliRunner().invoke(app, [*arguments, "oracle:expert=mnli"])
    assert done.exit_code == 0, done.output
    mine = read_result(next((tmp_path / "out").rglob("oracle*.json")))
    assert (mine.method.label, mine.method.options["expert"]) == ("oracle:expert=mnli", "mnli")

    leaves, common = ["lorafuse_sst2", "lorafuse_sst2_options"], {"zoo": zoo.root, "data": "mini", "limit": 1}
    with pytest.raises(LorafuseError, match="oracle:expert=sst2"):
        stock(tmp_path / "refused", leaves, None, method="oracle", **common)
    theirs, _ = read_lm_eval(
        stock(tmp_path / "stock", leaves, None, method="oracle", expert="mnli", **common)
    )
    assert mine.run_id == theirs.run_id
