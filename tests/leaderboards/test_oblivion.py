"""Boards of tasks that no expert was trained for: before and after, against the base, without an oracle."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from toy_cells import write
from typer.testing import CliRunner

from lorafuse_bench import cli
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion import registry
from lorafuse_bench.leaderboards import reported
from lorafuse_bench.leaderboards.boards.board import Board, Row
from lorafuse_bench.leaderboards.boards.builder import build
from lorafuse_bench.leaderboards.boards.reported_rows import OVER_ORACLE
from lorafuse_bench.leaderboards.publishing.verify import verify
from lorafuse_bench.tasks.rows import load_task
from lorafuse_bench.tasks.suites import suite

SUITE = "or_mtl"
TABLE = reported.load("moore_table12_oblivion")
KEYS = tuple(column.task for column in TABLE.columns)
BEFORE = [1.0, 1.0, 1.0, 0.0]
AFTER = [1.0, 0.0, 0.0, 0.0]


def grid(out: Path, after: dict[str, list[Any]] | None = None, label: str = "svd", **changes: Any) -> Path:
    """The base and one method, which forgets two of three items of every task."""
    write(out, "base", dict.fromkeys(KEYS, BEFORE), suite=SUITE, **changes)
    scores = dict.fromkeys(KEYS, AFTER) if after is None else after
    return write(out, label, scores, suite=SUITE, **changes)


def only_board(out: Path) -> Board:
    (board,) = build([out]).boards
    return board


def measured(board: Board) -> dict[str, Row]:
    return {row.label: row for row in board.rows if row.origin == "measured"}


def test_before_after_change_and_overall_by_hand(tmp_path: Path) -> None:
    grid(tmp_path)
    board = only_board(tmp_path)
    assert board.oblivion
    svd = measured(board)["svd"]
    task = svd.tasks["mmlu"]
    assert (task.normalised, task.metrics["acc"].value) == (None, 0.25)
    # differences 0 -1 -1 0: mean -1/2, sd sqrt(1/3), SE sqrt(1/12); seven such tasks: SE / sqrt(7)
    assert task.change and (task.change.value, task.change.se) == (-0.5, pytest.approx(math.sqrt(1 / 12)))
    assert svd.overall and svd.overall.value == 0.25
    assert svd.change and svd.change.value == -0.5
    assert svd.change.se == pytest.approx(math.sqrt(1 / 12 / 7))
    base = measured(board)["base"]
    assert base.overall and base.overall.value == 0.75
    assert base.change and (base.change.value, base.change.se) == (0.0, 0.0)


def test_nothing_is_normalised_or_ranked_and_what_forgets_least_is_first(tmp_path: Path) -> None:
    grid(tmp_path)
    write(tmp_path, "arrow", dict.fromkeys(KEYS, BEFORE), suite=SUITE)
    write(tmp_path, "best", dict.fromkeys(KEYS, [1.0] * 4), suite=SUITE)
    board = only_board(tmp_path)
    assert list(measured(board)) == ["best", "arrow", "base", "svd"]
    assert all(row.rank is None and row.ability is None for row in board.rows)
    assert board.ranking is None
    assert all(not column.counts and column.reason is None for column in board.columns)
    assert "No expert was trained for these tasks" in board.caption
    assert "mean of the raw scores over 7 tasks" in board.caption


def test_the_base_must_be_there_and_whole(tmp_path: Path) -> None:
    path = grid(tmp_path)
    path.with_name("base.json").unlink()
    with pytest.raises(LorafuseError, match="method.label: no base for or_mtl on zoo mini, seed 1"):
        build([tmp_path])
    write(tmp_path, "base", dict.fromkeys(set(KEYS) - {"bbh"}, BEFORE), suite=SUITE)
    with pytest.raises(LorafuseError, match=r"base\.json: tasks\.bbh: missing"):
        build([tmp_path])


def test_other_documents_than_the_bases_are_refused(tmp_path: Path) -> None:
    grid(tmp_path)
    write(tmp_path, "svd", dict.fromkeys(KEYS, AFTER), suite=SUITE, documents="other ")
    with pytest.raises(LorafuseError, match=r"svd\.json: bbh\.doc_hashes: other documents .*base\.json"):
        build([tmp_path])


def test_a_missing_task_leaves_no_mean(tmp_path: Path) -> None:
    grid(tmp_path, dict.fromkeys(KEYS[1:], AFTER))
    svd = measured(only_board(tmp_path))["svd"]
    assert (svd.overall, svd.change, svd.note) == (None, None, "incomplete 6/7")
    assert svd.tasks[KEYS[1]].change


def test_losses_stay_out_of_the_mean(tmp_path: Path) -> None:
    """On a suite of their own: the tasks of ours are known to be scores."""
    suite = {"suite": "toy", "loss": ("two",), "experts": []}
    write(tmp_path, "base", {"one": BEFORE, "two": BEFORE}, **suite)
    write(tmp_path, "lora", {"one": AFTER, "two": [5.0] * 4}, method={"family": "adapters"}, **suite)
    board = only_board(tmp_path)
    lora = measured(board)["lora"]
    assert lora.change and lora.change.value == -0.5
    assert lora.tasks["two"].change and lora.tasks["two"].change.value == 4.25
    assert "over 1 task" in board.caption and "Losses stay out" in board.caption


def test_seeds_are_averaged(tmp_path: Path) -> None:
    grid(tmp_path)
    grid(tmp_path, dict.fromkeys(KEYS, BEFORE), zoo={"seed": 2, "sha256": "2" * 64})
    change = measured(only_board(tmp_path))["svd"].change
    assert change and change.by_seed == {1: -0.5, 2: 0.0}
    assert change.value == -0.25
    assert change.sd == pytest.approx(0.5 / math.sqrt(2))


def test_the_papers_rows_change_as_printed(tmp_path: Path) -> None:
    grid(tmp_path)
    rows = {row.label: row for row in only_board(tmp_path).rows if row.origin == "reported"}
    assert list(rows) == [row.label for row in TABLE.rows]
    for printed in TABLE.rows:
        row = rows[printed.label]
        assert row.source and row.source.endswith("Table 12, Llama-3.1-8B-Instruct")
        assert row.overall and printed.aggregate
        assert 100 * row.overall.value == pytest.approx(printed.aggregate, abs=0.0051)
        if printed.deltas is None:
            assert printed.role == "floor"
            continue
        for key, delta in zip(KEYS, printed.deltas, strict=False):
            change = row.tasks[key].change
            assert change and 100 * change.value == pytest.approx(delta, abs=0.0051)
        assert row.change and 100 * row.change.value == pytest.approx(printed.deltas[-1], abs=0.0101)


def test_the_board_is_verified_and_shown(tmp_path: Path) -> None:
    grid(tmp_path / "results")
    assert verify(tmp_path / "results").problems == ()
    out = tmp_path / "leaderboard.json"
    done = CliRunner().invoke(cli.app, ["leaderboard", "build", str(tmp_path / "results"), "--out", str(out)])
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.output.splitlines()]
    assert ["svd", "0.250", "-0.500", "0.109"] in [line[1:5] for line in lines if len(line) > 5]
    assert ["-0.500"] * 7 in lines
    assert "does not count" not in done.output
    shown = CliRunner().invoke(cli.app, ["leaderboard", "show", str(out)])
    assert "overall" in shown.output
    assert done.output == f"{shown.output}leaderboard: {out}\n"


@pytest.mark.parametrize("name", reported.names())
def test_reported_suites_have_our_tasks_and_metrics(name: str) -> None:
    """So that a paper's column is the very column of the board it stands on, or of the metric its protocol has."""
    table = reported.load(name)
    scores = table.quantity in ("score", OVER_ORACLE)
    if table.suite is None:
        assert not scores, "a table of scores names its suite"
        return
    assert scores
    columns = {column.task: column.metric for column in table.columns if column.representative}
    tasks = suite(table.suite).tasks
    ours = {key: task.metric for key, task in tasks.items()}
    assert columns == ours or (table.protocol and set(columns.values()) == {"acc_options"})
    assert columns.keys() == ours.keys()
    for column in table.columns:
        leaf = tasks[column.task].leaves[column.metric == "acc_options"]
        emitted = load_task(leaf, "mini").higher_is_better()
        assert emitted[column.metric], f"{column.task} reports no {column.metric}"


def test_the_papers_labels_are_ours() -> None:
    for name in ("moore_table5_csr_llama3.1_8b", "moore_table12_oblivion"):
        for row in reported.load(name).rows:
            assert registry.parse(row.label).label() == row.label
