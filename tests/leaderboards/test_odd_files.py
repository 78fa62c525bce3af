"""Files that are no results, among results: each is one line, at once, with the memory of a result."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest
from toy_cells import write

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.boards.builder import build
from lorafuse_bench.leaderboards.publishing.verify import verify
from lorafuse_bench.leaderboards.results import reading
from lorafuse_bench.leaderboards.results.difference import first_difference

ZEROS = 1 << 26  # bytes at a time


def grid(out: Path) -> Path:
    write(out, "base", {"one": [0.0, 0.0]})
    return write(out, "oracle", {"one": [1.0, 1.0]})


def bomb(path: Path, times: int) -> None:
    """A gzip file of `times` 64 MiB of zeros."""
    member = gzip.compress(b"0" * ZEROS)
    path.write_bytes(member)
    if times > 1:  # one stream, not many members
        with gzip.open(path, "wb") as file:
            for _ in range(times):
                file.write(b"0" * ZEROS)


def one_line(out: Path, name: str, says: str) -> None:
    problem = next(p for p in verify(out).problems if name in p)
    assert says in problem
    assert "\n" not in problem
    with pytest.raises(LorafuseError, match=r"^[^\n]*$"):
        build([out])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[" * 100_000, "nested too deep"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b'{"schema": "lorafuse.result/1", "suite": ' + b"[" * 100_000, "nested too deep"),
        (b"\xff\xfe\x00", "cannot be read as JSON"),
        (b'{"schema": "lorafuse.result/1", "suite": "\xff"}', "cannot be read as JSON"),
        (b"NaN", "cannot be read as JSON"),
        (b"0.5", "schema: 'float' is unknown"),
        (b"null", "schema: 'NoneType' is unknown"),
        (b'"text"', "schema: 'str' is unknown"),
        (b"[[], {}]", "schema: 'list' is unknown"),
        (b'{"schema": {"a": 1}}', "schema: '{'a': 1}' is unknown"),
        (b"1" * 5000, "cannot be read as JSON"),
        (b'{"results": 1, "configs": 2, "config": 3}', "not lm-eval's results"),
        (
            b'{"results": {}, "configs": {}, "config": {"lorafuse": [1]}}',
            "time_seconds: missing. Run lm_eval",
        ),
        (b'{"results": {}, "configs": [], "config": null}', "not lm-eval's results"),
    ],
)
def test_what_is_no_result_is_one_line(tmp_path: Path, content: bytes, says: str) -> None:
    grid(tmp_path).with_name("odd.json").write_bytes(content)
    one_line(tmp_path, "odd.json", says)


@pytest.mark.parametrize("kind", ["fifo", "folder", "dangling", "loop"])
def test_what_is_no_file_is_one_line(tmp_path: Path, kind: str) -> None:
    odd = grid(tmp_path).with_name("odd.json")
    if kind == "fifo":
        os.mkfifo(odd)
    elif kind == "folder":
        odd.mkdir()
    else:
        odd.symlink_to(odd if kind == "loop" else tmp_path / "nowhere")
    one_line(tmp_path, "odd.json", "cannot be read" if kind in ("dangling", "loop") else "not a regular file")


@pytest.mark.parametrize("name", ["oracle.items.json.gz", "caption.md", "leaderboard.json"])
def test_a_pipe_in_place_of_a_file_does_not_hang(tmp_path: Path, name: str) -> None:
    path = grid(tmp_path / "results").with_name(name)
    if name != "oracle.items.json.gz":
        path = tmp_path / name
        (tmp_path / "leaderboard.json").write_text('{"schema": "lorafuse.leaderboard/1", "boards": []}')
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    assert any(f"{name}: not a regular file" in problem for problem in verify(tmp_path).problems)


def test_a_caption_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    grid(tmp_path / "results")
    (tmp_path / "leaderboard.json").write_text('{"schema": "lorafuse.leaderboard/1", "boards": []}')
    (tmp_path / "caption.md").write_bytes(b"\xff\xfe")
    assert any("caption.md: not UTF-8 text" in problem for problem in verify(tmp_path).problems)


def test_a_file_larger_than_any_result_is_not_read(tmp_path: Path) -> None:
    huge = grid(tmp_path).with_name("odd.json")
    with huge.open("wb") as file:
        file.truncate(1 << 36)  # 64 GiB, none of them on the disk
    one_line(tmp_path, "odd.json", "more than")


SCRIPT = """
import resource, sys
limit = 3 << 29
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
from lorafuse_bench.leaderboards.publishing.verify import verify
print(verify(sys.argv[1]).problems)
"""


def test_items_inflate_to_what_the_result_holds_and_no_further(tmp_path: Path) -> None:
    """In 1.5 GiB of address space: as many zeros would not fit."""
    path = grid(tmp_path).with_name("oracle.items.json.gz")
    bomb(path, times=24)
    assert path.stat().st_size < 1 << 23
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "oracle.items.json.gz: inflates to more than the" in done.stdout


def test_items_are_bounded_by_the_number_of_items(tmp_path: Path) -> None:
    path = grid(tmp_path).with_name("oracle.items.json.gz")
    path.write_bytes(gzip.compress(b" " * 20_000))
    one_line(tmp_path, "oracle.items.json.gz", "inflates to more than the")


def test_hashes_kept_apart_are_bounded_too(tmp_path: Path) -> None:
    bomb(tmp_path / "documents.txt.gz", times=1)
    with pytest.raises(LorafuseError, match="inflates to more than the 1,000 bytes"):
        reading.inflate(tmp_path / "documents.txt.gz", 1000, "Fetch it again.")


@pytest.mark.parametrize("cut", [0, 10, -1])
def test_a_part_of_a_gzip_file_is_refused(tmp_path: Path, cut: int) -> None:
    whole = gzip.compress(b"one two three")
    (tmp_path / "a.gz").write_bytes(whole[:cut])
    with pytest.raises(LorafuseError, match="cannot be read"):
        reading.inflate(tmp_path / "a.gz", 1000, "Fetch it again.")
    (tmp_path / "a.gz").write_bytes(whole + b"tail")
    with pytest.raises(LorafuseError, match="not one whole gzip file"):
        reading.inflate(tmp_path / "a.gz", 1000, "Fetch it again.")


@pytest.mark.parametrize(
    ("mine", "theirs", "where"),
    [
        (list("abcde"), list("abxde"), "2"),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, "a.b"),
        ({"a": 1}, {}, "a"),
        (["a"], ["a", "b"], "1"),
        ("x" * 500 + "a", "x" * 500 + "b", ""),
        ("x" * 500, "x" * 500 + "b", ""),
        ("x" * 100 + "a" + "y" * 100, "x" * 100 + "b" + "y" * 100, ""),
    ],
)
def test_the_first_difference_is_seen(mine: object, theirs: object, where: str) -> None:
    found = first_difference(mine, theirs)
    assert found
    assert found.where == where
    a, b = found.texts()
    assert a != b
    assert max(len(a), len(b)) < 80
    assert first_difference(mine, mine) is None
