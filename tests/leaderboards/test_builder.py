"""From cells to boards: numbers by hand, what is refused, and that a second build gives the same bytes."""

import math
from pathlib import Path
from typing import Any

import pytest
from toy_cells import Scores, write

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.boards.board import Board, Row, read_leaderboard, write_leaderboard
from lorafuse_bench.leaderboards.boards.builder import build

GOOD, HALF, BAD = [1.0] * 8, [1.0, 0.0] * 4, [0.0] * 8
BLEU_GOOD, BLEU_BAD = [[6, 6, 6, 5, 4, 3, 6, 5, 4, 3]] * 8, [[6, 6, 0, 0, 0, 0, 6, 5, 4, 3]] * 8


def grid(out: Path, method: Scores | None = None, label: str = "concat", **changes: Any) -> Path:
    """Base, oracle and one method on two tasks; `changes` are the method's."""
    write(out, "base", {"one": BAD, "two": BAD})
    write(out, "oracle", {"one": GOOD, "two": GOOD})
    return write(out, label, method or {"one": GOOD, "two": HALF}, **changes)


def only_board(out: Path, **options: Any) -> Board:
    (board,) = build([out], **options).boards
    return board


def row(board: Board, label: str) -> Row:
    return next(row for row in board.rows if row.label == label)


def test_ability_by_hand(tmp_path: Path) -> None:
    # ratios 1 ± 0 and 1/2 ± sd(±1/2)/sqrt(8) = 1/2 ± sqrt(2/7)/sqrt(8) = 1/2 ± 0.18898
    grid(tmp_path)
    concat = row(only_board(tmp_path), "concat")
    assert concat.tasks["one"].normalised
    assert (concat.tasks["one"].normalised.value, concat.tasks["one"].normalised.se) == (1.0, 0.0)
    assert concat.tasks["two"].normalised
    assert concat.tasks["two"].normalised.se == pytest.approx(0.188982, abs=1e-6)
    assert concat.ability
    assert concat.ability.value == 0.75
    assert concat.ability.se == pytest.approx(0.188982 / 2, abs=1e-6)
    assert concat.ability.sd is None
    assert concat.ability.by_seed == {1: 0.75}


def test_references_are_marked_and_unranked(tmp_path: Path) -> None:
    grid(tmp_path)
    write(tmp_path, "svd", {"one": HALF, "two": HALF})
    write(tmp_path, "twin", {"one": HALF, "two": HALF})
    rows = only_board(tmp_path).rows
    assert [(r.label, r.role, r.rank) for r in rows] == [
        ("oracle", "oracle", None),
        ("concat", "method", 1),
        ("svd", "method", 2),
        ("twin", "method", 2),
        ("base", "floor", None),
    ]


def test_a_wrong_expert_is_a_floor_and_never_the_oracle(tmp_path: Path) -> None:
    """Even one that beats the oracle is not ranked, and nothing is divided by it."""
    grid(tmp_path)
    family = {"name": "oracle", "label": "oracle:wrong=true", "family": "floor", "options": {"wrong": True}}
    method = {"version": "1", "source_sha256": "d" * 64, **family}
    write(tmp_path, "oracle:wrong=true", {"one": HALF, "two": GOOD}, method=method)
    board = only_board(tmp_path)
    wrong = row(board, "oracle:wrong=true")
    assert (wrong.role, wrong.rank) == ("floor", None)
    assert wrong.ability
    assert wrong.ability.value == 0.75
    assert row(board, "oracle").role == "oracle"
    assert row(board, "concat").rank == 1


def test_an_oracle_that_was_told_which_expert_is_what_scores_are_divided_by(tmp_path: Path) -> None:
    told = {"one": [1.0, 1.0, 1.0, 0.0] * 5, "two": [1.0] * 20}
    told_which = {"family": "reference"}
    for label in ("base", "concat"):
        write(tmp_path, label, {"one": [0.0, 0.0, 1.0, 0.0] * 5, "two": [0.0] * 20})
    write(tmp_path, "oracle:expert=b", told, method=told_which)
    board = only_board(tmp_path)
    oracle = row(board, "oracle:expert=b")
    assert (oracle.role, oracle.rank, oracle.ability and oracle.ability.value) == ("oracle", None, 1)
    other = write(tmp_path, "oracle:expert=c", told, method=told_which)
    with pytest.raises(
        LorafuseError, match="oracle:expert=c, beside oracle:expert=b: scores are divided by one"
    ):
        build([tmp_path])
    other.unlink()
    write(tmp_path, "oracle", {"one": [1.0] * 20, "two": [1.0] * 20})
    board = only_board(tmp_path)
    assert row(board, "oracle").ability and row(board, "oracle:expert=b").role == "oracle"
    assert row(board, "oracle:expert=b").tasks["one"].normalised.value == 0.75  # type: ignore[union-attr]


def test_missing_task_leaves_the_row_unranked(tmp_path: Path) -> None:
    grid(tmp_path, {"one": GOOD})
    concat = row(only_board(tmp_path), "concat")
    assert (concat.ability, concat.rank, concat.note) == (None, None, "incomplete 1/2")
    assert concat.tasks["one"].normalised
    assert "two" not in concat.tasks


def test_a_task_whose_oracle_fails_the_gate_counts_for_nobody(tmp_path: Path) -> None:
    write(tmp_path, "base", {"one": BAD, "two": HALF})
    write(tmp_path, "oracle", {"one": GOOD, "two": HALF})
    write(tmp_path, "concat", {"one": HALF, "two": GOOD})
    board = only_board(tmp_path)
    assert [(c.task, c.counts) for c in board.columns] == [("one", True), ("two", False)]
    assert "does not beat the base" in (board.columns[1].reason or "")
    for label in ("base", "oracle", "concat"):
        assert row(board, label).tasks["two"].normalised is None
    concat = row(board, "concat")
    assert concat.tasks["two"].metrics["acc"].value == 1.0
    assert concat.ability
    assert concat.ability.value == 0.5
    assert "over 1 of 2 tasks" in board.caption


def test_no_counted_task_means_no_ability(tmp_path: Path) -> None:
    for label in ("base", "oracle", "concat"):
        write(tmp_path, label, {"one": HALF})
    board = only_board(tmp_path)
    assert all(r.ability is None and r.rank is None for r in board.rows)
    assert "no method has an ability" in board.caption


def test_corpus_bleu_is_normalised_too(tmp_path: Path) -> None:
    write(tmp_path, "base", {"one": BLEU_BAD})
    write(tmp_path, "oracle", {"one": BLEU_GOOD})
    write(tmp_path, "concat", {"one": BLEU_GOOD[:4] + BLEU_BAD[:4]})
    concat = row(only_board(tmp_path), "concat").tasks["one"].normalised
    assert concat
    # half of every count is right and no length differs: BLEU is 1/2 of the oracle's 1
    assert concat.value == pytest.approx(0.5)
    # a binomial share of the items is right: SE about sqrt(0.25/8)
    assert concat.se == pytest.approx(math.sqrt(0.25 / 8), rel=0.1)


def test_losses_stay_out_of_the_mean(tmp_path: Path) -> None:
    losses = {"base": [4.0, 4.2] * 4, "oracle": [2.0, 2.2] * 4, "concat": [2.5, 2.7] * 4}
    for (label, loss), scores in zip(losses.items(), (BAD, GOOD, HALF), strict=True):
        write(tmp_path, label, {"one": scores, "two": loss}, loss=("two",))
    board = only_board(tmp_path)
    concat = row(board, "concat")
    assert concat.ability
    assert concat.ability.value == 0.5
    two = concat.tasks["two"]
    assert two.normalised is None
    assert two.difference
    assert two.difference.value == pytest.approx(0.5)
    assert two.recovered
    assert two.recovered.value == pytest.approx(0.75)


def test_replicates_give_mean_and_sd_over_seeds(tmp_path: Path) -> None:
    grid(tmp_path)
    for seed, scores in ((2, {"one": GOOD, "two": GOOD}), (3, {"one": HALF, "two": HALF})):
        zoo = {"seed": seed, "sha256": str(seed) * 64}
        write(tmp_path, "base", {"one": BAD, "two": BAD}, zoo=zoo)
        write(tmp_path, "oracle", {"one": GOOD, "two": GOOD}, zoo=zoo)
        write(tmp_path, "concat", scores, zoo=zoo)
    board = only_board(tmp_path)
    ability = row(board, "concat").ability
    assert ability
    # .75, 1, .5: mean .75, sd .25
    assert ability.value == 0.75
    assert ability.sd == pytest.approx(0.25)
    assert ability.by_seed == {1: 0.75, 2: 1.0, 3: 0.5}
    assert [r.seed for r in board.replicates] == [1, 2, 3]
    assert "3 seeds (1, 2, 3)" in board.caption
    assert len(row(board, "concat").run_ids) == 3


def test_a_method_missing_from_one_seed_is_incomplete(tmp_path: Path) -> None:
    grid(tmp_path)
    zoo = {"seed": 2}
    write(tmp_path, "base", {"one": BAD, "two": BAD}, zoo=zoo)
    write(tmp_path, "oracle", {"one": GOOD, "two": GOOD}, zoo=zoo)
    concat = row(only_board(tmp_path), "concat")
    assert (concat.note, concat.ability) == ("incomplete 1/2 seeds", None)


def test_suites_and_zoos_make_boards_of_their_own(tmp_path: Path) -> None:
    for change in ({}, {"suite": "other"}, {"zoo": {"name": "another"}}):
        write(tmp_path, "base", {"one": BAD}, **change)
        write(tmp_path, "oracle", {"one": GOOD}, **change)
    boards = build([tmp_path]).boards
    assert [(b.suite, b.zoo) for b in boards] == [("other", "mini"), ("toy", "another"), ("toy", "mini")]


def test_reported_rows_stand_beside_a_suite_of_the_papers(tmp_path: Path) -> None:
    tasks = ("cnn_dailymail", "wmt14_en_de", "squad", "sst2", "mnli")
    write(tmp_path, "base", dict.fromkeys(tasks, BAD), suite="mtl5")
    write(tmp_path, "oracle", dict.fromkeys(tasks, GOOD), suite="mtl5")
    board = only_board(tmp_path)
    assert tuple(c.task for c in board.columns) == tasks
    reported = [r for r in board.rows if r.origin == "reported"]
    assert len(reported) == 14
    assert board.rows[-14:] == tuple(reported)
    assert all(r.source and r.rank is None for r in reported)


def test_a_second_build_gives_the_same_bytes(tmp_path: Path) -> None:
    grid(tmp_path / "a")
    for name in ("one.json", "two.json"):
        write_leaderboard(tmp_path / name, build([tmp_path / "a"]))
    (tmp_path / "moved").mkdir()
    (tmp_path / "a").rename(tmp_path / "moved" / "b")
    write_leaderboard(tmp_path / "three.json", build([tmp_path / "moved"]))
    first = (tmp_path / "one.json").read_bytes()
    assert first == (tmp_path / "two.json").read_bytes() == (tmp_path / "three.json").read_bytes()
    assert str(tmp_path).encode() not in first


def test_a_leaderboard_is_read_back_and_may_lie_among_the_results(tmp_path: Path) -> None:
    grid(tmp_path)
    write_leaderboard(tmp_path / "leaderboard.json", build([tmp_path]))
    again = read_leaderboard(tmp_path / "leaderboard.json")
    assert build([tmp_path]).boards[0].caption == again.boards[0].caption
    assert row(again.boards[0], "concat").rank == 1


def test_a_caption_says_what_was_asked_beside_the_tasks(tmp_path: Path) -> None:
    asked = {
        "chat_template": "default",
        "system_instruction": "Be brief.",
        "generation": {"temperature": 0.5},
        "model": {"add_bos_token": True},
    }
    for label, scores in (("base", [0.0, 1.0]), ("oracle", [1.0, 1.0])):
        write(tmp_path, label, {"one": scores * 4}, settings=asked)
    (board,) = build([tmp_path]).boards
    assert "Asked in the model's chat template 'default'. Before every prompt: 'Be brief.'." in board.caption
    assert "Set by hand: temperature=0.5, add_bos_token=True." in board.caption


def test_limited_runs_need_the_flag_and_are_captioned(tmp_path: Path) -> None:
    for label, scores in (("base", BAD), ("oracle", GOOD)):
        write(tmp_path, label, {"one": scores}, limit=8)
    with pytest.raises(LorafuseError, match=r"base\.json: limit: 8.*--allow-limit"):
        build([tmp_path])
    assert "LIMITED RUN: only the first 8 items" in only_board(tmp_path, allow_limit=True).caption


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"limit": 8}, r"json: limit: "),
        ({"data": {"source": "hub"}}, r"json: data\.source: "),
        (
            {"data": {"splits": {"one": {"test": "other.parquet"}}}},
            r"json: data\.splits\.one\.test: 'other.parquet', but",
        ),
        ({"base": {"dtype": "bfloat16"}}, r"json: base\.dtype: "),
        ({"base": {"sha256": "f" * 64}}, r"json: base\.sha256: "),
        ({"zoo": {"sha256": "f" * 64}}, r"json: zoo\.sha256: "),
        ({"experts": []}, r"json: experts\.one: nothing, but"),
    ],
)
@pytest.mark.parametrize("allow_limit", [False, True])
def test_cells_that_do_not_compare_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str, allow_limit: bool
) -> None:
    grid(tmp_path, **changes)
    with pytest.raises(LorafuseError, match=message):
        build([tmp_path], allow_limit=allow_limit)


def test_one_label_must_be_one_method_in_all_seeds(tmp_path: Path) -> None:
    grid(tmp_path)
    zoo = {"seed": 2}
    write(tmp_path, "base", {"one": BAD, "two": BAD}, zoo=zoo)
    write(tmp_path, "oracle", {"one": GOOD, "two": GOOD}, zoo=zoo)
    write(tmp_path, "concat", {"one": GOOD, "two": HALF}, zoo=zoo, method={"version": "2"})
    with pytest.raises(LorafuseError, match=r"mini-2/concat\.json: method\.version: '2'"):
        build([tmp_path])


def test_changed_code_of_one_version_is_said(tmp_path: Path) -> None:
    grid(tmp_path)
    assert "Code changed" not in only_board(tmp_path).caption
    zoo = {"seed": 2}
    write(tmp_path, "base", {"one": BAD, "two": BAD}, zoo=zoo)
    write(tmp_path, "oracle", {"one": GOOD, "two": GOOD}, zoo=zoo)
    write(tmp_path, "concat", {"one": GOOD, "two": HALF}, zoo=zoo, method={"source_sha256": "9" * 64})
    board = only_board(tmp_path)
    assert "Code changed between the cells, the version did not: concat." in board.caption
    assert len(row(board, "concat").sources) == 2


@pytest.mark.parametrize("missing", ["base", "oracle"])
def test_missing_reference_is_refused(tmp_path: Path, missing: str) -> None:
    grid(tmp_path).with_name(f"{missing}.json").unlink()
    with pytest.raises(LorafuseError, match=f"method.label: no {missing} for toy on zoo mini, seed 1"):
        build([tmp_path])


def test_a_reference_without_a_task_is_refused(tmp_path: Path) -> None:
    grid(tmp_path, {"one": GOOD, "two": GOOD, "three": GOOD})
    with pytest.raises(LorafuseError, match=r"oracle\.json: tasks\.three: missing"):
        build([tmp_path])


def test_a_suite_of_ours_must_be_whole_in_the_oracle(tmp_path: Path) -> None:
    write(tmp_path, "base", {"squad": BAD}, suite="mtl5")
    write(tmp_path, "oracle", {"squad": GOOD}, suite="mtl5")
    with pytest.raises(LorafuseError, match=r"oracle\.json: tasks\.cnn_dailymail: missing"):
        build([tmp_path])


def test_other_documents_than_the_oracles_are_refused(tmp_path: Path) -> None:
    grid(tmp_path)
    write(tmp_path, "svd", {"one": GOOD, "two": GOOD}, documents="other ")
    with pytest.raises(LorafuseError, match=r"svd\.json: one\.doc_hashes: other documents"):
        build([tmp_path])


def test_other_items_than_the_oracles_are_refused(tmp_path: Path) -> None:
    grid(tmp_path, {"one": GOOD[:4], "two": GOOD[:4]})
    with pytest.raises(LorafuseError, match=r"concat\.json: tasks\.one\.n: 4, but"):
        build([tmp_path])


def test_another_metric_than_the_oracles_is_refused(tmp_path: Path) -> None:
    grid(tmp_path, {"one": BLEU_GOOD, "two": GOOD})
    with pytest.raises(LorafuseError, match=r"concat\.json: tasks\.one\.representative: 'bleu'"):
        build([tmp_path])


def test_a_partial_run_without_limit_is_refused(tmp_path: Path) -> None:
    grid(tmp_path)
    write(tmp_path, "svd", {"one": GOOD, "two": GOOD}, task={"n_original": 9})
    with pytest.raises(LorafuseError, match=r"svd\.json: tasks\.one\.n: 8 of 9 items"):
        build([tmp_path])


def test_the_same_cell_twice_is_refused(tmp_path: Path) -> None:
    grid(tmp_path / "a")
    grid(tmp_path / "b")
    with pytest.raises(
        LorafuseError, match=r"b/toy/mini-1/base\.json: method\.label: the cell is also .*/a/"
    ):
        build([tmp_path / "a", tmp_path / "b"])
    assert build([tmp_path / "a", tmp_path / "a" / "toy"]).boards


def test_nothing_to_build_is_said(tmp_path: Path) -> None:
    with pytest.raises(LorafuseError, match="no results here"):
        build([tmp_path])
    with pytest.raises(LorafuseError, match="no results here"):
        build([tmp_path / "absent"])


def test_a_stray_json_file_is_refused(tmp_path: Path) -> None:
    stray = grid(tmp_path).with_name("notes.json")
    stray.write_text("{}")
    with pytest.raises(LorafuseError, match=r"notes\.json: schema: 'None' is unknown"):
        build([tmp_path])


@pytest.mark.parametrize(("name", "reason"), [("absent.json", "No such file"), ("", "not a regular file")])
def test_what_is_no_file_is_no_leaderboard(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(LorafuseError, match=rf"{reason}.*Give the file that"):
        read_leaderboard(tmp_path / name)


@pytest.mark.parametrize("content", ["", "[]", '{"schema": "lorafuse.leaderboard/9"}'])
def test_a_broken_leaderboard_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "leaderboard.json"
    path.write_text(content)
    with pytest.raises(LorafuseError, match=r"leaderboard\.json: "):
        read_leaderboard(path)


def test_a_data_set_that_moved_is_the_same_and_another_is_not(tmp_path: Path) -> None:
    def piqa(hub: str, name: str | None) -> dict[str, Any]:
        return {"dataset": {"hub": hub, "name": name, "split": "validation"}}

    write(tmp_path, "base", {"one": BAD}, task=piqa("ybisk/piqa", "plain_text"))
    write(tmp_path, "oracle", {"one": GOOD}, task=piqa("baber/piqa", None))
    assert only_board(tmp_path).columns[0].counts
    write(tmp_path, "concat", {"one": GOOD}, task=piqa("somebody/piqa", None))
    with pytest.raises(LorafuseError, match=r"tasks\.one\.dataset.*somebody/piqa"):
        only_board(tmp_path)
