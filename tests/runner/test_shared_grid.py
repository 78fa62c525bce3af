"""A grid of cells in shards, by several processes, and as a plan before it runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from toy_cells import rewrite
from toy_grid import SUITE, plan
from typer.testing import CliRunner

from lorafuse_bench import runner
from lorafuse_bench.cli import app
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.results import cell_files
from lorafuse_bench.runner.outlook import seconds_until_done
from lorafuse_bench.runner.worker import Order
from lorafuse_bench.zoo.manifest import Zoo

METHODS = "base,ties,concat,svd"


def cells(made: runner.Plan) -> list[Path]:
    return [cell.path for cell in runner.Grid.of(made, print).cells]


@pytest.mark.parametrize("shards", [1, 3, 4, 6])
def test_shards_are_the_whole_grid_once(zoo: Zoo, tmp_path: Path, shards: int) -> None:
    whole = cells(plan(zoo, tmp_path, METHODS))
    parts = [cells(plan(zoo, tmp_path, METHODS, shard=(i + 1, shards))) for i in range(shards)]
    assert sorted(path for part in parts for path in part) == sorted(whole)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_cell_that_is_named_twice_is_run_once(zoo: Zoo, tmp_path: Path) -> None:
    twice = plan(zoo, tmp_path, "base,svd:rank=4,base,svd:rank=4", suites=[SUITE, "sst2/qnli"])
    assert cells(twice) == cells(plan(zoo, tmp_path, "base,svd:rank=4"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"limit": 0},
        {"limit": 10**30},
        {"limit": 1.5},
        {"limit": True},
        {"max_length": 15},
        {"batch_size": 0},
        {"num_fewshot": -1},
    ],
)
def test_a_number_that_means_nothing_is_refused(zoo: Zoo, tmp_path: Path, wrong: dict[str, int]) -> None:
    (name,) = wrong
    with pytest.raises(LorafuseError, match=f"{name}={wrong[name]}: a whole number of at least "):
        plan(zoo, tmp_path, **wrong)


@pytest.mark.parametrize(
    "text", ["0/4", "5/4", "1", "1/", "/2", "a/b", "-1/2", "1/2/3", "", "1/" + "9" * 5000]
)
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(LorafuseError, match="is no I/N"):
        runner.shard_of(text)


def test_a_shard_does_not_move_when_cells_are_done(zoo: Zoo, tmp_path: Path) -> None:
    """Tasks of an array start at different times: what is done already must not change what is theirs."""
    second = cells(plan(zoo, tmp_path, METHODS, shard=(2, 2)))
    runner.run(plan(zoo, tmp_path, METHODS, shard=(1, 2)))
    assert cells(plan(zoo, tmp_path, METHODS, shard=(2, 2))) == second
    assert not any(path.exists() for path in second)


def test_a_plan_measures_cells_by_those_of_their_kind_and_writes_nothing(zoo: Zoo, tmp_path: Path) -> None:
    out = tmp_path / "results"
    fresh = runner.outlooks(runner.Grid.of(plan(zoo, out, METHODS), print))
    assert [each.seconds for each in fresh] == [None] * 4
    assert {each.reason for each in fresh} == {"not run yet"}
    assert not out.exists()

    runner.run(plan(zoo, out, "base,svd"))
    cost = {path.stem: cell_files.read_result(path).cost for path in out.rglob("*.json")}
    before = sorted(out.rglob("*"))
    found = {
        each.cell.method.label(): each
        for each in runner.outlooks(runner.Grid.of(plan(zoo, out, "base,svd,svd:rank=1,ties"), print))
    }
    assert sorted(out.rglob("*")) == before
    assert [label for label, each in found.items() if each.reason is None] == ["base", "svd"]
    took = {name: each.fuse_seconds + each.eval_seconds for name, each in cost.items()}
    assert found["svd:rank=1"].seconds == found["svd"].seconds == took["svd"]
    assert found["svd:rank=1"].peak_bytes == cost["svd"].peak_bytes
    assert found["ties"].seconds == pytest.approx(sum(took.values()) / 2)
    other = runner.outlooks(runner.Grid.of(plan(zoo, out, "ties", limit=2), print))
    assert other[0].seconds is None, "cells with another limit take another time"


def test_run_shows_the_plan_as_a_table_and_as_json(zoo: Zoo, tmp_path: Path) -> None:
    runner.run(plan(zoo, tmp_path, "base"))
    command = ["run", "--zoo", str(zoo.root), "--suites", SUITE, "--methods", "base,svd", "--limit", "1"]
    command += ["--out", str(tmp_path), "--batch-size", "8", "--device", "cpu"]
    shown = CliRunner().invoke(app, [*command, "--plan"], catch_exceptions=False)
    assert "2 cells, 1 done, about" in shown.stdout
    assert "not run yet" in shown.stdout
    told = json.loads(CliRunner().invoke(app, [*command, "--plan", "--json"]).stdout)
    assert [(cell["method"], cell["done"]) for cell in told["cells"]] == [("base", True), ("svd", False)]
    assert told["seconds_left"] == told["cells"][1]["seconds"] > 0
    elsewhere = CliRunner().invoke(app, [*command, "--plan", "--out", "/proc/nowhere"])
    assert elsewhere.exit_code == 0, "nothing is written, so it may be a folder of others"
    refused = CliRunner().invoke(app, [*command, "--json"])
    assert refused.exit_code == 2
    assert "--json shows a plan as data" in refused.output


@pytest.mark.parametrize(
    ("seconds", "workers", "last"),
    [([1, 1, 1, 100], 4, 100), ([3, 1, 1, 2], 2, 4), ([2, 2], 1, 4), ([2.5], 10**9, 2.5), ([], 3, 0)],
)
def test_workers_are_done_when_the_last_of_them_is(seconds: list[float], workers: int, last: float) -> None:
    assert seconds_until_done(seconds, workers) == last


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_length", 64),
        ("num_fewshot", 2),
        ("batch_size", 1),
        ("base.dtype", "bfloat16"),
        ("data.source", "hub"),
        ("experts.0.rank", 64),
        ("settings.system_instruction", "Answer."),
        ("environment.hardware", "NVIDIA H100 80GB HBM3, 2 threads"),
    ],
)
def test_cells_that_were_asked_something_else_are_no_measure(
    zoo: Zoo, tmp_path: Path, measured: Path, field: str, value: object
) -> None:
    out = tmp_path / "out"
    shutil.copytree(measured, out)
    grid = runner.Grid.of(plan(zoo, out, "svd"), print)
    assert runner.outlooks(grid)[0].seconds is not None
    (path,) = out.rglob("*.json")
    rewrite(path, field, value)
    assert runner.outlooks(grid)[0].seconds is None


@pytest.fixture(scope="module")
def measured(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of one cell."""
    out = tmp_path_factory.mktemp("measured")
    runner.run(plan(zoo, out, "base"))
    return out


def test_a_worker_is_told_what_was_meant_beside_folders_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mini", "hub", "rows"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("LORAFUSE_TASKS", "mine/*.yaml")
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")
    zoo = Zoo.open("mini")

    def order(source: str) -> Order:
        made = runner.Plan(None, [], Path("out"), zoo="mini", data=source)
        return Order.of(runner.Grid(made, zoo, source, [], {}))

    assert [order(source).plan.data for source in ("mini", "hub", "rows")] == [
        "mini",
        "hub",
        str(tmp_path / "rows"),
    ]
    assert order("mini").plan.zoo == "mini" and order("mini").plan.out == tmp_path / "out"
    assert order("mini").environment["HF_ALLOW_CODE_EVAL"] == "1"
    assert order("mini").environment["LORAFUSE_TASKS"] == str(tmp_path / "mine/*.yaml")


def test_a_shard_without_cells_says_so(zoo: Zoo, tmp_path: Path) -> None:
    """What a board needs of other shards is not told by one."""
    command = ["run", "--zoo", str(zoo.root), "--suites", SUITE, "--methods", "base", "--shard", "7/1000"]
    told = CliRunner().invoke(app, [*command, "--out", str(tmp_path), "--device", "cpu"])
    assert told.stdout == f"0 cells of shard 7/1000 in {tmp_path}\n"
