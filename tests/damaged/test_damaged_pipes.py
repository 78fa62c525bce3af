"""Pipes and sockets among the files of a zoo, a base, a data set, tasks and results: said, never waited for."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from damage import Row, Work, check

from lorafuse_bench import locks

RUN = "run --zoo {zoo} --suites sst2 --methods base --limit 1 --out {root}/out"
FUSE = RUN.replace("base", "concat", 1)
BUILD = "leaderboard build {results} --out {root}/b.json"
TRAIN = "train experts --suite sst2 --base {zoo}/base --data {data} --out {root}/out --steps 1 --rows 2"
Special = Callable[[Path], object]


def bound(path: Path) -> None:
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as made:
        made.bind(f"{short}/s")  # a socket's path may have a hundred bytes only
        shutil.move(f"{short}/s", path)


def beside(place: str, name: str, special: Special) -> Callable[[Work], object]:
    """Put it where a file of that name is, or beside the others."""

    def harm(work: Work) -> None:
        path = getattr(work, place) / name
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        special(path)

    return harm


def in_rows(special: Special) -> Callable[[Work], object]:
    def harm(work: Work) -> None:
        path = next(path for path in work.data.rglob("validation.parquet") if "sst2" in str(path))
        path.unlink()
        special(path)

    return harm


PLACES: list[tuple[str, str, str, str, str]] = [
    ("shard", RUN, "x.safetensors is not a regular file", "zoo", "base/x.safetensors"),
    ("shard, trained on", TRAIN, "x.safetensors is not a regular file", "zoo", "base/x.safetensors"),
    ("base's config", RUN, "config.json", "zoo", "base/config.json"),
    (
        "adapter's weights",
        FUSE,
        "adapter_model.safetensors",
        "expert",
        "adapter_model.safetensors",
    ),
    ("adapter's config", FUSE, "adapter_config.json", "expert", "adapter_config.json"),
    ("manifest", RUN, "manifest.json", "zoo", "manifest.json"),
    ("task", RUN + " --include-path {root}/tasks", "x.yaml is not a regular file", "root", "tasks/x.yaml"),
    (
        "items",
        "leaderboard build {results} --out {root}/b.json",
        "svd.items.json.gz",
        "results",
        "toy/mini-1/svd.items.json.gz",
    ),
]
KINDS: list[tuple[str, Special]] = [("pipe", os.mkfifo), ("socket", bound)]
ROWS = [
    Row(f"{kind} as {name}", command, message, beside(place, file, special))
    for kind, special in KINDS
    for name, command, message, place, file in PLACES
] + [Row(f"{kind} as rows", RUN, "validation.parquet", in_rows(special)) for kind, special in KINDS]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name.replace(" ", "_"))
def test_what_is_no_file_is_said_in_one_line(row: Row, whole: Work, tmp_path: Path) -> None:
    check(row, whole, tmp_path)


def test_what_is_left_of_a_killed_process_is_cleared_though_it_be_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".x.part")
    os.mkfifo(tmp_path / "y.lock")
    locks.sweep(tmp_path)
    assert not locks.is_held(tmp_path / "y.lock")
    assert not (tmp_path / ".x.part").exists()
