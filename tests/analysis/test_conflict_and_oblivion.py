"""The conflict curve and the oblivion table by hand, from small results; their commands; what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from toy_cells import write
from typer.testing import CliRunner

from lorafuse_bench.analysis.conflict import Conflict, conflict
from lorafuse_bench.analysis.difficulty import easiest_first
from lorafuse_bench.analysis.oblivion import oblivion
from lorafuse_bench.analysis.oblivion_against_tasks import against_tasks
from lorafuse_bench.cli import app
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.boards.builder import build
from lorafuse_bench.tasks.suites import suite as suite_of

NLU, TEXT = tuple(suite_of("nlu_mtl").tasks), tuple(suite_of("mini_text").tasks)
RIGHT, HALF, WRONG = [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]
SEEDS = {0: "1" * 64, 1: "2" * 64}


def put(
    out: Path,
    label: str,
    suite: str,
    scores: Mapping[str, Sequence[Any]],
    seed: int = 0,
    trained_on: int = 7,
    losses: bool = False,
) -> None:
    """A cell of an adapter (or of the base) in a zoo that holds no experts."""
    family = "floor" if label == "base" else "adapters"
    zoo = {"name": f"nlu_mtl-{trained_on}", "seed": seed, "sha256": SEEDS[seed]}
    loss = tuple(scores) if losses else ()
    write(out, label, dict(scores), suite=suite, loss=loss, method={"family": family}, experts=[], zoo=zoo)


def grid(out: Path) -> Path:
    """`moore` and `lora` on all seven tasks and on two, two seeds: rte is easy, cola half, the others hard."""
    hard = dict.fromkeys(NLU, WRONG)
    for seed in SEEDS:
        put(out, "base", "nlu_mtl", hard, seed)
        put(out, "moore", "nlu_mtl", hard | {"rte": RIGHT, "cola": RIGHT}, seed)
        put(out, "lora", "nlu_mtl", hard | {"rte": RIGHT}, seed)
        put(out, "base", "rte/cola", {"rte": WRONG, "cola": WRONG}, seed, 2)
        put(out, "moore", "rte/cola", {"rte": RIGHT, "cola": RIGHT if seed else HALF}, seed, 2)
        put(out, "lora", "rte/cola", {"rte": RIGHT, "cola": RIGHT}, seed, 2)
    return out


def test_the_curve_by_hand(tmp_path: Path) -> None:
    boards = build([grid(tmp_path)]).boards
    assert all(board.oblivion for board in boards)
    result = conflict(boards, "nlu_mtl").model_dump()
    assert [len(tasks) for tasks in result["tasks"]] == [2, 7]
    two, seven = result["methods"]["moore"]
    assert (two["tasks"], two["by_seed"]) == (2, {"0": 0.75, "1": 1.0})
    assert (two["score"], two["sd"]) == (0.875, pytest.approx(0.25 / 2**0.5))
    assert (seven["tasks"], seven["score"], seven["sd"]) == (7, pytest.approx(2 / 7), 0)
    assert result["methods"]["lora"][1]["score"] == pytest.approx(1 / 7)
    assert [point["score"] for point in result["methods"]["base"]] == [0, 0]


def test_the_easiest_is_what_methods_do_best_without_the_base(tmp_path: Path) -> None:
    boards = build([grid(tmp_path)]).boards
    scores = conflict(boards, "nlu_mtl").scores_by_task
    assert (scores["rte"], scores["cola"], scores["mnli"]) == (1.0, 0.5, 0.0)
    assert easiest_first(boards, "nlu_mtl") == ("rte", "cola", "mnli", "mrpc", "qnli", "qqp", "sst2")
    with pytest.raises(LorafuseError, match="0 boards of the whole of spectr9"):
        easiest_first(boards, "spectr9")
    with pytest.raises(LorafuseError, match="no results of adapters on spectr9"):
        conflict(boards, "spectr9")


def test_the_table_by_hand(tmp_path: Path) -> None:
    put(tmp_path, "base", "mini_text", dict.fromkeys(TEXT, HALF))
    put(tmp_path, "moore", "mini_text", dict.fromkeys(TEXT, HALF) | {TEXT[0]: WRONG})
    result = oblivion(build([tmp_path]).boards, "mini_text").model_dump()
    assert result["before"] == {**dict.fromkeys(TEXT, 0.5), "overall": 0.5}
    entry = result["methods"]["moore"]
    assert entry["after"][TEXT[0]] == 0 and entry["after"]["overall"] == pytest.approx(3 / 7)
    assert entry["delta"][TEXT[0]]["value"] == -0.5
    # paired differences -1 and 0 of one task in seven: SE 1/2, over 7
    assert entry["delta"]["overall"] == {
        "value": pytest.approx(-1 / 14),
        "se": pytest.approx(1 / 14),
        "sd": None,
    }
    assert "base" not in result["methods"]
    with pytest.raises(LorafuseError, match="0 boards of what or_mtl lost"):
        oblivion(build([tmp_path]).boards, "or_mtl")


def test_what_is_left_against_the_number_of_tasks_by_hand(tmp_path: Path) -> None:
    """Two seeds; moore trained on two tasks keeps all, on seven half of one text in seven (seed 0) or all."""
    grid(tmp_path)
    for seed in SEEDS:
        for count in (2, 7):
            lost = {TEXT[0]: HALF} if (seed, count) == (0, 7) else {}
            put(tmp_path, "base", "mini_text", dict.fromkeys(TEXT, RIGHT), seed, count)
            put(tmp_path, "moore", "mini_text", dict.fromkeys(TEXT, RIGHT) | lost, seed, count)
            for label in ("base", "moore"):  # a suite of some such tasks by name says nothing of training
                put(tmp_path, label, "/".join(TEXT[:3]), dict.fromkeys(TEXT[:3], RIGHT), seed, count)
    boards = build([tmp_path]).boards
    result = against_tasks(boards, "mini_text").model_dump()
    two, seven = result["methods"]["moore"]
    assert (two["tasks"], two["score"]) == (2, 1.0)
    assert (seven["tasks"], seven["by_seed"]) == (7, {"0": pytest.approx(13 / 14), "1": 1.0})
    assert [point["score"] for point in result["methods"]["base"]] == [1, 1]
    by_name = against_tasks(boards, "/".join(TEXT[:3]))
    assert [point.tasks for point in by_name.methods["moore"]] == [2, 7]
    table = oblivion(boards, "mini_text").model_dump()  # of the adapters of most tasks
    assert table["trained_on"] == 7 and table["methods"]["moore"]["delta"][TEXT[0]]["value"] == -0.25
    given = ["--suite", "mini_text", "--out", str(tmp_path / "out")]
    done = call("oblivion-against-tasks", str(tmp_path), *given)
    assert done.exit_code == 0, done.output
    written = json.loads((tmp_path / "out" / "oblivion-against-tasks.json").read_text())
    assert written["methods"]["moore"][1]["score"] == seven["score"]
    assert (tmp_path / "out" / "oblivion-against-tasks.png").read_bytes().startswith(b"\x89PNG")


def test_one_number_of_tasks_is_no_curve(tmp_path: Path) -> None:
    for label in ("base", "moore"):
        put(tmp_path, label, "mini_text", dict.fromkeys(TEXT, RIGHT))
    with pytest.raises(LorafuseError, match="under adapters of one number of tasks are no curve"):
        against_tasks(build([tmp_path]).boards, "mini_text")


def test_boards_of_the_same_number_of_tasks_are_refused(tmp_path: Path) -> None:
    for count in (2, 7):  # without the boards that tell how many tasks were trained on
        put(tmp_path, "base", "mini_text", dict.fromkeys(TEXT, RIGHT), trained_on=count)
    with pytest.raises(LorafuseError, match="2 boards of what mini_text lost"):
        oblivion(build([tmp_path]).boards, "mini_text")


def test_both_are_written_with_a_picture(tmp_path: Path) -> None:
    results, out = grid(tmp_path / "results"), tmp_path / "out"
    put(results, "base", "mini_text", dict.fromkeys(TEXT, HALF))
    put(results, "moore", "mini_text", dict.fromkeys(TEXT, WRONG))
    for name, suite in (("conflict", "nlu_mtl"), ("oblivion", "mini_text")):
        done = call(name, str(results), "--suite", suite, "--out", str(out))
        assert done.exit_code == 0, done.output
        assert json.loads((out / f"{name}.json").read_text())["schema"] == f"lorafuse.analysis.{name}/1"
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--counts", "2,x"], "analysis 'conflict': option counts='2,x': Input should be a valid integer"),
        (["--counts", "2,8"], "suite 'nlu_mtl' has 7 tasks"),
        (["--order", "rte,cola"], "the order must name each task of 'nlu_mtl' once: cola, mnli"),
        (["--methods", "svd"], "method 'svd' is not a trained adapter. These are: full_finetune"),
        (["--device", "nowhere"], "device 'nowhere' cannot be used"),
        (["--dtype", "fp16"], "unknown dtype 'fp16'"),
        (["--out", "/proc/nowhere"], "/proc"),
        (["--rows", "0"], "analysis 'conflict': option rows=0: Input should be greater than or equal to 1"),
        (["--learning-rate", "nan"], "analysis 'conflict': option learning_rate=nan"),
    ],
)
def test_a_study_that_cannot_be_is_refused_before_training(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    few = ["--base", "mini", "--suite", "nlu_mtl", "--methods", "lora"]
    done = call("conflict", str(tmp_path / "study"), *few, *arguments)
    assert done.exit_code == 2 and message in done.stderr, done.output
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_study_trains_what_is_missing_and_nothing_twice(tmp_path: Path) -> None:
    """One method on three tasks of the mini world, then on the two easiest."""
    few = [
        "--base",
        "mini",
        "--suite",
        "boolq/piqa/sst2",
        "--methods",
        "lora:rank=1",
        "--rows",
        "4",
        "--epochs",
        "1",
    ]
    more = ["--counts", "2,3", "--seeds", "0", "--oblivion", "mini_text", "--batch-size", "64"]
    first = call("conflict", str(tmp_path), *few, *more)
    assert first.exit_code == 0, first.output
    result = json.loads((tmp_path / "conflict.json").read_text())
    order = first.stdout.partition("easiest first: ")[2].partition("\n")[0].split(", ")
    assert sorted(order) == ["boolq", "piqa", "sst2"]
    assert result["tasks"][0] == order[:2]
    cells = [json.loads(path.read_text()) for path in (tmp_path / "results").rglob("*.json")]
    assert {cell["data"]["source"] for cell in cells} == {"mini"}
    assert {point["tasks"] for point in result["methods"]["lora:rank=1"]} == {2, 3}
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("*.json")}
    assert len(made) == 2 * 4  # base and lora: three tasks, two tasks, the texts after each
    again = call("conflict", str(tmp_path), *few, *more)
    assert again.exit_code == 0 and "step" not in again.stdout
    assert {path: path.stat().st_mtime_ns for path in made} == made
    table = call("oblivion", str(tmp_path / "results"), "--suite", "mini_text", "--out", str(tmp_path))
    assert table.exit_code == 0, table.output
    before: dict[str, Any] = json.loads((tmp_path / "oblivion.json").read_text())["before"]
    assert before["text_wordbook"] > 0.9  # what the mini base can do


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["analyze", *arguments])


def test_a_study_trains_in_the_portions_and_at_the_length_asked_for(tmp_path: Path) -> None:
    asked = Conflict(
        folder=tmp_path,
        data="mini",
        methods="lora",
        train_batch_size=6,
        accumulation=3,
        cutoff=64,
        gradient_checkpointing=True,
    )
    settings = asked._study("mini").settings
    assert (settings.batch_size, settings.accumulation, settings.cutoff) == (6, 3, 64)
    assert settings.gradient_checkpointing
