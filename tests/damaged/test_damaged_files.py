"""Results, captions and rows of data with something wrong in them, and disks that are full. One line each."""

from __future__ import annotations

import gzip
import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
import torch
from damage import Row, Work, check

from lorafuse_bench import files, identity
from lorafuse_bench.leaderboards.publishing.publish import pack

BUILD = "leaderboard build {results} --out {root}/board.json"
VERIFY = "leaderboard verify {results}"
RUN = "run --zoo {zoo} --suites sst2 --methods base --out {root}/out"
TRAIN = "train experts --suite sst2 --base {zoo}/base --data {data} --out {root}/out --steps 1 --rows 2"
DEEP = b"[" * 100_000
NULL = b"\0" * 100


def cell(work: Work) -> Path:
    return work.results / "toy" / "mini-1" / "svd.json"


def items(work: Work) -> Path:
    return cell(work).with_name("svd.items.json.gz")


def of_result(name: str, message: str, content: bytes, command: str = BUILD) -> Row:
    return Row(f"result {name}", command, message, lambda work: cell(work).write_bytes(content))


def field(name: str, message: str, **changes: Any) -> Row:
    return Row(f"result {name}", BUILD, message, lambda work: work.json(cell(work), **changes))


def of_items(name: str, message: str, content: bytes) -> Row:
    return Row(f"items {name}", BUILD, message, lambda work: items(work).write_bytes(content))


def fifo_among_results(work: Work) -> None:
    os.mkfifo(work.results / "x.json")


def other_scores(work: Work) -> None:
    content = gzip.decompress(items(work).read_bytes()).replace(b"1.0", b"0.0", 3)
    items(work).write_bytes(gzip.compress(content))


def published_under_latin_1(work: Work) -> None:
    pack([work.results], work.root / "published", "words")
    work.results.rename(work.root / "others")
    (work.root / "published").rename(work.results)
    (work.results / "caption.md").write_bytes("für".encode("latin-1"))


def published_with_a_link(work: Work) -> None:
    pack([work.results], work.root / "published", "words")
    (work.root / "secret").write_text("a key")
    (work.root / "published" / "results" / "notes.txt").symlink_to(work.root / "secret")


def in_place(field: str, text: str) -> Callable[[Work], object]:
    """Replace a field of the result by JSON that no writer of ours makes."""

    def harm(work: Work) -> None:
        work.json(cell(work), **{field: "@"})
        cell(work).write_text(cell(work).read_text().replace('"@"', text))

    return harm


def baseline(name: str, message: str, content: str) -> Row:
    command = "check-scores {results} --method svd --baseline {root}/base.json"
    return Row(
        f"baseline {name}", command, message, lambda work: (work.root / "base.json").write_text(content)
    )


def twice(path: Path) -> None:
    path.write_text(path.read_text().replace("{", '{"schema": "another", ', 1))


RESULTS = (
    of_result("empty", "svd.json", b""),
    of_result("cut", "svd.json", b'{"schema": "lorafuse.result/1"'),
    of_result("deep", "svd.json", DEEP),
    of_result("not UTF-8", "svd.json", '{"schema": "für"}'.encode("latin-1")),
    of_result("a list", "svd.json", b"[1]"),
    of_result("a number", "svd.json", b"1"),
    of_result("zeros", "svd.json", NULL),
    of_result("deep, verified", "svd.json", DEEP, VERIFY),
    of_result("not UTF-8, verified", "svd.json", '{"schema": "für"}'.encode("latin-1"), VERIFY),
    field("of a later schema", "schema", schema="lorafuse.result/99"),
    field("of another run", "run_id", run_id="0" * 64),
    field("of an unknown field", "colour", colour="red"),
    field("without tasks", "svd.json", tasks={}),
    field("of a list of tasks", "tasks", tasks=[]),
    field("of a seed that is a word", "seeds", seeds={"python": "one"}),
    Row(
        "result of a limit NaN",
        VERIFY,
        "svd.json: cannot be read as JSON: limit is nan",
        in_place("limit", "NaN"),
    ),
    Row(
        "result of an option NaN",
        BUILD,
        "settings.generation.t is nan",
        in_place("settings", '{"generation": {"t": NaN}}'),
    ),
    Row("result of half a letter", VERIFY, "suite holds half a character", in_place("suite", '"\\ud800"')),
    Row("result of two schemas", VERIFY, "'schema' stands twice", lambda work: twice(cell(work))),
    of_items("empty", "svd.items.json.gz", b""),
    of_items("no gzip", "svd.items.json.gz", b"{}"),
    of_items("no JSON", "svd.items.json.gz", gzip.compress(b"{")),
    of_items("deep", "svd.items.json.gz", gzip.compress(DEEP)),
    of_items("not UTF-8", "svd.items.json.gz", gzip.compress("{für}".encode("latin-1"))),
    of_items("that inflate without end", "svd.items.json.gz", gzip.compress(bytes(200 * 2**20))),
    Row("items gone", BUILD, "svd.items.json.gz", lambda work: items(work).unlink()),
    Row("items of other scores", BUILD, "svd.items.json.gz", other_scores),
    Row("a fifo among results", BUILD, "x.json", fifo_among_results),
    Row("a fifo among results, verified", VERIFY, "x.json", fifo_among_results),
    Row(
        "a link out of a published folder",
        "leaderboard publish {root}/published --repo a/b",
        "leads to {root}/secret",
        published_with_a_link,
    ),
    baseline("without a margin", "base.json: margin: Field required", '{"results": "results", "n": {}}'),
    baseline("of a margin NaN", "margin is nan", '{"results": "results", "margin": NaN, "n": {}}'),
    baseline("of other items", "3 items of 'toy'", '{"results": "results", "margin": 0.05, "n": {"toy": 3}}'),
    Row("caption not UTF-8", VERIFY, "caption.md", published_under_latin_1),
)


def rows_of(work: Work, split: str) -> Path:
    return next(path for path in work.data.rglob(f"{split}.parquet") if "sst2" in str(path))


def column(name: str, message: str, key: str, values: list[Any]) -> Iterator[Row]:
    """Two rows: a column of SST-2 that holds other values, when training and when evaluating."""
    for split, command in (("train", TRAIN), ("validation", RUN)):

        def harm(work: Work, split: str = split) -> None:
            path = rows_of(work, split)
            table = parquet.read_table(path)
            changed = arrow.array((values * len(table))[: len(table)])
            index = table.schema.get_field_index(key)
            parquet.write_table(arrow.table(table.columns, names=table.column_names), path)
            parquet.write_table(table.set_column(index, key, changed).replace_schema_metadata(), path)

        yield Row(f"{name}, {split}", command, message, harm)


def renamed(work: Work) -> None:
    path = rows_of(work, "validation")
    table = parquet.read_table(path)
    names = ["text" if name == "sentence" else name for name in table.column_names]
    parquet.write_table(table.rename_columns(names).replace_schema_metadata(), path)


def no_rows(work: Work) -> None:
    path = rows_of(work, "validation")
    parquet.write_table(parquet.read_table(path)[:0], path)


DATA = (
    *column("sentences that are null", "sentence", "sentence", [None]),
    *column("a sentence that is null", "sentence", "sentence", ["good", None]),
    *column("sentences that are lists", "sentence", "sentence", [["a", "b"]]),
    *column("labels beyond the names", "label", "label", [7]),
    *column("labels that are words", "label", "label", ["good"]),
    *column("labels that are null", "label", "label", [None]),
    Row("a column of another name", RUN, "sentence", renamed),
    Row("no rows", RUN, "sst2", no_rows),
    Row("rows gone", RUN, "validation", lambda work: rows_of(work, "validation").unlink()),
    Row("rows empty", RUN, "validation.parquet", lambda w: rows_of(w, "validation").write_bytes(b"")),
    Row("rows no parquet", RUN, "validation.parquet", lambda w: rows_of(w, "validation").write_bytes(NULL)),
)


@pytest.mark.parametrize("row", [*RESULTS, *DATA], ids=lambda row: row.name.replace(" ", "_"))
def test_a_damaged_file_is_refused_in_one_line(row: Row, whole: Work, tmp_path: Path) -> None:
    check(row, whole, tmp_path)


@contextmanager
def full_disk(free_bytes: int) -> Iterator[None]:
    """No file can grow beyond so many bytes, as on a disk that is nearly full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


FULL = (
    Row("export of an adapter", "export --zoo {zoo} --method svd --out {root}/out", "Free some space"),
    Row("export of a model", "export --zoo {zoo} --method ties --out {root}/out", "Free some space"),
    Row("export of all experts", "export --zoo {zoo} --all --out {root}/out", "Free some space"),
    Row("training", TRAIN, "Make room"),
    Row("pack", "leaderboard pack {results} --out {root}/new --caption words", "Free some space"),
    Row("board", BUILD, "Free some space"),
    Row("a cell", RUN + " --limit 1", "Free some space"),
)


@pytest.mark.parametrize("row", FULL, ids=lambda row: row.name.replace(" ", "_"))
def test_a_full_disk_is_said_in_one_line_and_leaves_nothing_half_written(
    row: Row, whole: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "run" in row.command:
        monkeypatch.setattr(files, "check_writable", lambda folder: None)
    filled = Row(row.name, row.command, row.message, lambda work: limit.__enter__())
    limit = full_disk(512)
    try:
        check(filled, whole, tmp_path)
    finally:
        limit.__exit__(None, None, None)
    left = [path for path in (tmp_path / "work").rglob("*") if path.name.endswith(".part")]
    assert not left
    for path in (tmp_path / "work").rglob("*.json"):
        assert json.loads(path.read_text())


def test_asking_git_for_the_commit_takes_no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk would leave git's lock behind in the user's checkout."""
    asked: list[list[str]] = []
    monkeypatch.setattr(identity, "_git", identity._git.__wrapped__)  # without its cache
    monkeypatch.setattr(identity.subprocess, "run", lambda command, **_: asked.append(command) or Said())
    identity.environment(torch.device("cpu"))
    assert len(asked) == 2
    assert all(command[:2] == ["git", "--no-optional-locks"] for command in asked)


class Said:
    stdout = "0" * 40
