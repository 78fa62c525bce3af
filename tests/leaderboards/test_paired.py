"""`lorafuse compare`: differences by hand, and what does not compare."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from toy_cells import write
from typer.testing import CliRunner

from lorafuse_bench import cli
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.boards.paired import compare, result_of

A = [1.0, 1.0, 1.0, 0.0]
B = [1.0, 0.0, 0.0, 1.0]
WHOLE, NONE = [6, 6, 6, 5, 4, 3, 6, 5, 4, 3], [6, 6, 0, 0, 0, 0, 6, 5, 4, 3]


def test_differences_by_hand(tmp_path: Path) -> None:
    losses = [2.0, 2.0, 2.0, 2.0], [1.0, 2.0, 3.0, 3.0]
    a = write(tmp_path, "a", {"one": A, "two": losses[0]}, loss=("two",))
    b = write(tmp_path, "b", {"one": B, "two": losses[1]}, loss=("two",))
    one, two = compare(a, b).tasks
    # differences 0 1 1 -1: mean 1/4, sd sqrt(11/12), SE sqrt(11/48)
    assert (one.a, one.b, one.difference) == (0.75, 0.5, 0.25)
    assert one.se == pytest.approx(math.sqrt(11 / 48))
    assert (one.a_better, one.b_better, one.n) == (2, 1, 4)
    assert one.p == pytest.approx(math.erfc(0.25 / math.sqrt(11 / 48) / math.sqrt(2)))
    # the loss: a is lower on two items, b on one
    assert (two.a_better, two.b_better) == (2, 1)
    assert two.difference == pytest.approx(-0.25)
    # Holm over two tasks: twice the smaller
    assert one.p_holm
    assert two.p_holm
    assert two.p
    assert min(one.p_holm, two.p_holm) == pytest.approx(min(1.0, 2 * min(one.p, two.p)))


def test_corpus_bleu_flips_by_sentence(tmp_path: Path) -> None:
    a = write(tmp_path, "a", {"one": [WHOLE] * 3 + [NONE]})
    b = write(tmp_path, "b", {"one": [WHOLE] * 2 + [NONE] * 2})
    (task,) = compare(a, b).tasks
    assert (task.a_better, task.b_better) == (1, 0)
    assert task.difference == pytest.approx(0.25)
    assert compare(a, a).tasks[0].p == 1.0


@pytest.mark.parametrize(("n", "p"), [(3, 0.25), (11, 1 / 1024)])
def test_items_that_all_differ_by_the_same_are_told_apart_by_their_number(
    tmp_path: Path, n: int, p: float
) -> None:
    """Their standard error is 0, which says nothing: three right answers against three wrong ones are no proof."""
    a = write(tmp_path, "a", {"one": [1.0] * n, "two": [0.3] * n})
    b = write(tmp_path, "b", {"one": [0.0] * n, "two": [0.2] * n})
    assert [task.p for task in compare(a, b).tasks] == [p, p]
    assert [task.p for task in compare(a, a).tasks] == [1.0, 1.0]


def test_the_tasks_of_both_are_compared(tmp_path: Path) -> None:
    a = write(tmp_path, "a", {"one": A, "two": A})
    assert [task.task for task in compare(a, write(tmp_path, "b", {"two": B})).tasks] == ["two"]
    with pytest.raises(LorafuseError, match=r"a\.json: tasks: none that .*c\.json has"):
        compare(a, write(tmp_path, "c", {"three": B}))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"suite": "other"}, "suite"),
        ({"zoo": {"seed": 2}}, r"zoo\.seed"),
        ({"documents": "other "}, r"one\.doc_hashes"),
        ({"data": {"source": "hub"}}, r"data\.source"),
        ({"experts": []}, "experts"),
    ],
)
def test_what_does_not_compare_is_refused(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    a, b = write(tmp_path, "a", {"one": A}), write(tmp_path, "b", {"one": B}, **changes)
    with pytest.raises(LorafuseError, match=field):
        compare(a, b)


def test_methods_are_found_by_name(tmp_path: Path) -> None:
    path = write(tmp_path, "moa:pool=mean", {"one": A})
    assert result_of(tmp_path, "moa:pool=mean") == path
    with pytest.raises(LorafuseError, match="unknown method 'mao:pool=mean'. Did you mean"):
        result_of(tmp_path, "mao:pool=mean")
    write(tmp_path, "moa:pool=mean", {"one": A}, zoo={"seed": 2})
    with pytest.raises(LorafuseError, match="several results of 'moa:pool=mean'"):
        result_of(tmp_path, "moa:pool=mean")


def test_the_table_is_whole_at_80_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorafuse_bench.tables.WIDE", 80)
    monkeypatch.setenv("COLUMNS", "80")
    paths = [str(write(tmp_path, name, {"cnn_dailymail": A * 50})) for name in "ab"]
    found = CliRunner().invoke(cli.app, ["compare", *paths]).output
    assert "…" not in found and max(map(len, found.splitlines())) <= 80
    (line,) = (line.split() for line in found.splitlines() if "0.000 to 0.000" in line)
    assert line[-4:] == ["1.000", "1.000", "0", "0"]


def test_a_method_without_its_folder_is_told_what_to_do(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.app, ["compare", "moa", "svd"])
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [
        "lorafuse: moa: no such file. Name result files, or methods of a folder: --results DIR."
    ]


def test_the_command_prints_a_table_or_json(tmp_path: Path) -> None:
    a = write(tmp_path, "a:x=[red]\x1b[31m", {"one": A})
    b = write(tmp_path, "b", {"one": B})
    done = CliRunner().invoke(cli.app, ["compare", str(a), str(b)])
    assert done.exit_code == 0
    assert "a:x=[red]?[31m minus b" in done.output
    line = next(line for line in done.output.splitlines() if line.strip().startswith("one"))
    assert line.split()[:6] == ["one", "acc", "4", "0.750", "0.500", "0.250"]
    found = CliRunner().invoke(cli.app, ["compare", "b", "b", "--results", str(tmp_path), "--json"])
    assert json.loads(found.output)["tasks"][0]["p"] == 1.0
