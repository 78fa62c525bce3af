"""Damaged results: each is refused by `verify`, naming the file and the field, and none builds."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy_cells import write

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.boards.board import write_leaderboard
from lorafuse_bench.leaderboards.boards.builder import build
from lorafuse_bench.leaderboards.publishing.verify import verify
from lorafuse_bench.leaderboards.results import layout

GOOD, HALF, BAD = [1.0] * 12, [1.0, 0.0] * 6, [0.0] * 12
BLEU = [[6, 6, 6, 5, 4, 3, 6, 5, 4, 3], [6, 6, 3, 1, 0, 0, 6, 5, 4, 3]] * 6
WHOLE = [[6, 6, 6, 5, 4, 3, 6, 5, 4, 3]] * 12
NONE = [[6, 6, 0, 0, 0, 0, 6, 5, 4, 3]] * 12


def grid(out: Path) -> Path:
    """Base, oracle and one method; the method's result file."""
    write(out, "base", {"one": BAD, "two": NONE})
    write(out, "oracle", {"one": GOOD, "two": WHOLE})
    return write(out, "concat", {"one": HALF, "two": BLEU})


Edit = Callable[[dict[str, Any]], Any]


def put(*keys: Any, to: Any) -> Edit:
    def edit(content: dict[str, Any]) -> None:
        inner: Any = content
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = to

    return edit


def drop(*keys: Any) -> Edit:
    def edit(content: dict[str, Any]) -> None:
        inner: Any = content
        for key in keys[:-1]:
            inner = inner[key]
        del inner[keys[-1]]

    return edit


RESULT: dict[str, tuple[Edit, str]] = {
    "unknown schema version": (put("schema", to="lorafuse.result/9"), r"schema: 'lorafuse.result/9'"),
    "no schema": (drop("schema"), "schema"),
    "no run id": (drop("run_id"), "run_id"),
    "another run id": (put("run_id", to="0" * 64), "run_id"),
    "another suite": (put("suite", to="mtl5"), "run_id"),
    "another label": (put("method", "label", to="svd"), "run_id"),
    "another version": (put("method", "version", to="2"), "run_id"),
    "other options": (put("method", "options", "rank", to=9), "run_id"),
    "other code": (put("method", "source_sha256", to="0" * 64), "run_id"),
    "no family": (drop("method", "family"), r"method\.family"),
    "an empty label": (put("method", "label", to=""), r"method\.label"),
    "another zoo": (put("zoo", "sha256", to="0" * 64), "run_id"),
    "a negative seed": (put("zoo", "seed", to=-1), r"zoo\.seed"),
    "an unknown initialisation": (put("zoo", "init", to="odd"), r"zoo\.init"),
    "another base": (put("base", "sha256", to="0" * 64), "run_id"),
    "no tokenizer": (drop("base", "tokenizer_sha256"), r"base\.tokenizer_sha256"),
    "another dtype": (put("base", "dtype", to="float16"), "run_id"),
    "another expert": (put("experts", 0, "sha256", to="0" * 64), "run_id"),
    "no experts": (drop("experts"), "experts"),
    "another source": (put("data", "source", to="hub"), "run_id"),
    "a hidden limit": (put("limit", to=5), "run_id"),
    "text for a limit": (put("limit", to="all"), "limit"),
    "other seeds": (put("seeds", "torch", to=7), "run_id"),
    "negative cost": (put("cost", "eval_seconds", to=-1.0), r"cost\.eval_seconds"),
    "a surplus field": (put("better", to=True), "better"),
    "a NaN value": (put("tasks", "one", "metrics", "acc", "value", to=float("nan")), r"acc\.value"),
    "an infinite value": (put("tasks", "one", "metrics", "acc", "value", to=float("inf")), r"acc\.value"),
    "a better value": (put("tasks", "one", "metrics", "acc", "value", to=0.6), r"one\.metrics\.acc"),
    "a better BLEU": (put("tasks", "two", "metrics", "bleu", "value", to=0.9), r"two\.metrics\.bleu"),
    "a smaller error": (put("tasks", "one", "metrics", "acc", "stderr", to=0.01), r"acc\.stderr"),
    "a smaller error of BLEU": (put("tasks", "two", "metrics", "bleu", "stderr", to=0.01), r"bleu\.stderr"),
    "no error": (put("tasks", "one", "metrics", "acc", "stderr", to=None), r"acc\.stderr"),
    "another kind of error": (
        put("tasks", "one", "metrics", "acc", "stderr_method", to="ratio"),
        "stderr_method",
    ),
    "the other direction": (put("tasks", "one", "metrics", "acc", "direction", to="down"), r"acc\.direction"),
    "another unit": (put("tasks", "one", "metrics", "acc", "unit", to="percent"), r"acc\.unit"),
    "fewer items": (put("tasks", "one", "n", to=11), "run_id"),
    "no items": (put("tasks", "one", "n", to=0), r"tasks\.one\.n"),
    "a larger split": (put("tasks", "one", "n_original", to=1000), "run_id"),
    "other documents": (put("tasks", "one", "docs_sha256", to="0" * 64), "run_id"),
    "more examples": (put("tasks", "one", "few_shot", to=5), "run_id"),
    "another task version": (put("tasks", "one", "version", to="2"), "run_id"),
    "another representative": (put("tasks", "one", "representative", to="f1"), "run_id"),
    "a task fewer": (drop("tasks", "one"), "run_id"),
    "other items": (put("items_sha256", to="0" * 64), "items_sha256"),
}

ITEMS: dict[str, tuple[Edit, str]] = {
    "a better item": (put("one", "metrics", "acc", 1, to=1.0), r"one\.metrics\.acc"),
    "two items exchanged": (put("one", "metrics", "acc", to=HALF[::-1]), "items_sha256"),
    "a NaN item": (put("one", "metrics", "acc", 1, to=float("nan")), r"one\.metrics\.acc"),
    "an item fewer": (put("one", "metrics", "acc", to=HALF[:-1]), r"one\.metrics\.acc"),
    "text for an item": (put("one", "metrics", "acc", 0, to="good"), r"one\.metrics\.acc"),
    "another BLEU count": (put("two", "metrics", "bleu", 1, 2, to=6), r"two\.metrics\.bleu"),
    "a short BLEU row": (put("two", "metrics", "bleu", 1, to=[6, 6]), r"two\.metrics\.bleu|no known kind"),
    "another document": (put("one", "doc_hashes", 0, to="0" * 64), r"one\.doc_hashes"),
    "a document fewer": (drop("one", "doc_hashes", 0), r"one\.doc_hashes"),
    "a document twice": (put("one", "doc_hashes", 1, to="0" * 64), r"one\.doc_hashes"),
    "no metric": (drop("one", "metrics", "acc"), r"tasks\.one"),
    "a task fewer": (drop("two"), "two"),
    "a surplus task": (put("three", to={"doc_hashes": [], "metrics": {}}), "three"),
    "a surplus metric": (put("one", "metrics", "f1", to=HALF), r"one\.metrics\.f1"),
}


def refused(out: Path, file: str, field: str) -> None:
    """`verify` names the file and the field, and the board is not built."""
    problems = verify(out).problems
    assert len(problems) == 1, problems
    (problem,) = problems
    assert file in problem
    assert "\n" not in problem
    with pytest.raises(LorafuseError, match=field) as caught:
        build([out])
    assert file in str(caught.value)
    assert str(caught.value) == problem


@pytest.mark.parametrize("damage", RESULT)
def test_a_damaged_result_is_refused(tmp_path: Path, damage: str) -> None:
    path = grid(tmp_path)
    edit, field = RESULT[damage]
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    # where the items say otherwise, it is they that the problem is seen in
    refused(tmp_path, "concat.", field)


@pytest.mark.parametrize("damage", ITEMS)
def test_damaged_items_are_refused(tmp_path: Path, damage: str) -> None:
    path = layout.items_path(grid(tmp_path))
    edit, field = ITEMS[damage]
    content = json.loads(gzip.decompress(path.read_bytes()))
    edit(content)
    path.write_bytes(gzip.compress(json.dumps(content, separators=(",", ":")).encode()))
    refused(tmp_path, "concat.items.json.gz", field)


@pytest.mark.parametrize("name", ["concat.json", "concat.items.json.gz"])
@pytest.mark.parametrize("content", [b"", b"\x00\x01", b"{", None, b'{"a": 1}'])
def test_broken_files_are_refused(tmp_path: Path, name: str, content: bytes | None) -> None:
    victim = grid(tmp_path).with_name(name)
    if content is None and name.endswith(".gz"):
        victim.unlink()
    else:
        victim.write_bytes(content if content is not None else victim.read_bytes()[:-40])
    refused(tmp_path, name, ".")


def test_a_result_under_another_methods_items_is_refused(tmp_path: Path) -> None:
    path = grid(tmp_path)
    shutil.copy(layout.items_path(path.with_name("oracle.json")), layout.items_path(path))
    refused(tmp_path, "concat.items.json.gz", r"one\.metrics\.acc")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"limit": 12}, "limit"),
        ({"data": {"source": "hub"}}, r"data\.source"),
        ({"documents": "other "}, r"one\.doc_hashes"),
        ({"task": {"n_original": 100}}, r"tasks\.one\.n"),
        ({"task": {"few_shot": 3}}, r"tasks\.one\.few_shot"),
        ({"task": {"version": "2"}}, r"tasks\.one\.version"),
        ({"base": {"tokenizer_sha256": "0" * 64}}, r"base\.tokenizer_sha256"),
        ({"zoo": {"sha256": "0" * 64}}, r"zoo\.sha256"),
    ],
)
def test_whole_files_that_do_not_compare_are_refused(
    tmp_path: Path, changes: dict[str, Any], field: str
) -> None:
    grid(tmp_path)
    write(tmp_path, "svd", {"one": HALF, "two": BLEU}, **changes)
    refused(tmp_path, "svd.json", field)


@pytest.mark.parametrize("label", ["base", "oracle"])
def test_a_missing_reference_is_refused(tmp_path: Path, label: str) -> None:
    grid(tmp_path).with_name(f"{label}.json").unlink()
    refused(tmp_path, "mini-1", rf"method\.label: no {label}")


def test_the_same_run_twice_is_refused(tmp_path: Path) -> None:
    path = grid(tmp_path)
    copy = path.with_name("copy.json")
    shutil.copy(path, copy)
    shutil.copy(layout.items_path(path), layout.items_path(copy))
    refused(tmp_path, "copy.json", r"method\.label")


def test_a_path_of_one_machine_is_refused(tmp_path: Path) -> None:
    grid(tmp_path)
    write(tmp_path, "svd", {"one": HALF, "two": BLEU}, data={"source": "/home/me/rows"})
    (problem,) = verify(tmp_path).problems
    assert "svd.json: data.source: '/home/me/rows' is a path of one machine" in problem


def test_all_problems_are_named(tmp_path: Path) -> None:
    path = grid(tmp_path)
    for name in ("concat.json", "oracle.json"):
        content = json.loads(path.with_name(name).read_text()) | {"run_id": "0" * 64}
        path.with_name(name).write_text(json.dumps(content))
    assert [
        name in p for name, p in zip(("concat.json", "oracle.json"), verify(tmp_path).problems, strict=True)
    ]


def test_sound_results_pass(tmp_path: Path) -> None:
    path = grid(tmp_path)
    assert verify(tmp_path).problems == ()
    assert verify(tmp_path).results == 3
    assert verify(path).problems == ()


@pytest.fixture
def published(tmp_path: Path) -> Path:
    folder = tmp_path / "toy"
    grid(folder / "results")
    (folder / "caption.md").write_text("A toy.\nNothing more.\n")
    write_leaderboard(folder / "leaderboard.json", build([folder / "results"], note="A toy. Nothing more."))
    return folder


def test_a_published_board_is_what_its_results_make(published: Path) -> None:
    for path in (published, published.parent):
        report = verify(path)
        assert report.problems == ()
        assert (report.results, report.boards) == (3, 1)


@pytest.mark.parametrize(
    ("edit", "field"),
    [
        (put("boards", 0, "rows", 1, "ability", "value", to=0.9), r"rows\.1\.ability\.value: 0.9, but"),
        (put("boards", 0, "caption", to="The best."), r"boards\.0\.caption"),
        (put("boards", 0, "rows", to=[]), r"boards\.0\.rows"),
        (put("boards", to=[]), "boards"),
        (put("schema", to="lorafuse.leaderboard/2"), "schema"),
        (drop("boards", 0, "provenance"), r"boards\.0\.provenance"),
    ],
)
def test_an_altered_board_is_refused(published: Path, edit: Edit, field: str) -> None:
    path = published / "leaderboard.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    (problem,) = (p for p in verify(published).problems if "leaderboard.json" in p)
    assert re.search(field, problem)


def test_a_published_board_without_its_results_is_refused(published: Path) -> None:
    shutil.rmtree(published / "results")
    assert any("results: missing" in problem for problem in verify(published).problems)
