"""`lorafuse leaderboard publish` against a stand-in for the hub on this machine."""

from __future__ import annotations

import base64
import gzip
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from test_lm_eval_results import grid
from toy_cells import with_samples, write

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.boards import collect
from lorafuse_bench.leaderboards.boards.board import write_leaderboard
from lorafuse_bench.leaderboards.boards.builder import build
from lorafuse_bench.leaderboards.boards.paired import compare
from lorafuse_bench.leaderboards.publishing.publish import pack, plan
from lorafuse_bench.leaderboards.publishing.verify import Report, verify
from lorafuse_bench.leaderboards.results.cell_files import read_cell
from lorafuse_bench.leaderboards.statistics import stats


class Hub(BaseHTTPRequestHandler):
    """Answers what `create_repo` and `create_commit` ask, and remembers it."""

    asked: list[tuple[str, str, str | None, bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.asked.append((self.command, self.path, self.headers["Authorization"], body))
        home = f"http://{self.headers['Host']}/datasets/me/boards"
        if "preupload" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            self._answer({"files": files})
        elif "/commit/" in self.path:
            self._answer({"commitUrl": f"{home}/commit/1", "commitOid": "1" * 40, "success": True})
        else:
            self._answer({"url": home, "name": "me/boards", "id": "1"})

    def _answer(self, content: dict[str, object]) -> None:
        payload = json.dumps(content).encode()
        refused = self.headers["Authorization"] != "Bearer hf_good"
        self.send_response(401 if refused else 200)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def hub() -> Iterator[tuple[str, list[tuple[str, str, str | None, bytes]]]]:
    """Address of the stand-in, and what it was asked."""
    Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", Hub.asked
    server.shutdown()


@pytest.fixture
def published(tmp_path: Path) -> Path:
    folder = tmp_path / "toy"
    write(folder / "results", "base", {"one": [0.0] * 4})
    with_samples(folder / "results", "oracle", [1.0] * 4)
    write_leaderboard(folder / "leaderboard.json", build([folder / "results"]))
    return folder


def lorafuse(
    folder: Path, endpoint: str, *options: str, token: str | None
) -> subprocess.CompletedProcess[str]:
    command = "from lorafuse_bench.cli import main; main()"
    named = {"HF_TOKEN": token} if token else {}
    home = {"HF_HOME": str(folder.parent / "hf"), "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": endpoint}
    return subprocess.run(
        [
            sys.executable,
            "-c",
            command,
            "leaderboard",
            "publish",
            str(folder),
            "--repo",
            "me/boards",
            *options,
        ],
        env={k: v for k, v in os.environ.items() if not k.startswith("HF_")} | home | named,
        capture_output=True,
        text=True,
        check=False,
    )


def test_answers_of_a_cell_that_is_not_done_stay_at_home(published: Path) -> None:
    block = published / "results" / "toy" / "mini-1" / ".svd.json.blocks" / "abc" / "000000.block"
    block.parent.mkdir(parents=True)
    block.write_bytes(b"texts of the evaluated data")
    assert [file.name for file in plan(published)] and not [f for f in plan(published) if "block" in str(f)]


def test_packed_results_verify_and_hold_no_documents(tmp_path: Path) -> None:
    results = tmp_path / "results"
    grid(results)
    caption = "Stock results.\nA toy."
    board = pack([results], tmp_path / "packed", caption)
    assert verify(tmp_path / "packed") == Report(results=3, boards=1, problems=())
    assert board.boards[0].caption.startswith("Stock results. A toy. ")
    names = {path.name for path in (tmp_path / "packed").rglob("*") if path.is_file()}
    cells = {
        f"{label}.{ending}" for label in ("base", "oracle", "moa") for ending in ("json", "items.json.gz")
    }
    hashes = {path.name for path in (tmp_path / "packed" / "results" / "documents").iterdir()}
    assert names == {"leaderboard.json", "caption.md", *cells, *hashes}
    with pytest.raises(LorafuseError, match="not empty"):
        pack([results], tmp_path / "packed", caption)


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A published folder of three methods on two tasks, by `pack`."""
    for label, scores in (("base", [0.0] * 6), ("oracle", [1.0] * 6), ("svd", [1.0, 0.0] * 3)):
        write(tmp_path / "results", label, {"one": scores, "two": scores})
    pack([tmp_path / "results"], tmp_path / "packed", "A toy.")
    return tmp_path / "packed"


def test_limited_results_are_packed_when_told_to_and_verify(tmp_path: Path) -> None:
    for label, score in (("base", 0.0), ("oracle", 1.0)):
        write(tmp_path / "results", label, {"one": [score] * 120}, limit=120)
    with pytest.raises(LorafuseError, match="limit: 120"):
        pack([tmp_path / "results"], tmp_path / "refused", "No.")
    board = pack([tmp_path / "results"], tmp_path / "packed", "First rows.", allow_limit=True).boards[0]
    assert "only the first 120 items of each task were scored." in board.caption
    assert verify(tmp_path / "packed").problems == ()


def test_hashes_of_documents_are_packed_once(packed: Path) -> None:
    kept = sorted((packed / "results" / "documents").iterdir())
    assert len(kept) == 2  # tasks, not cells
    sidecar = next((packed / "results").rglob("svd.items.json.gz"))
    assert b'"doc_hashes":[]' in gzip.decompress(sidecar.read_bytes())
    cell = sidecar.with_name("svd.json")
    result, items = read_cell(cell)
    original = packed.parent / cell.relative_to(packed)
    assert (result, items) == read_cell(original)
    assert cell.read_bytes() == original.read_bytes()
    assert compare(cell, cell.with_name("base.json")).tasks[0].a_better == 3


@pytest.mark.parametrize("content", [None, b"", b"no gzip", gzip.compress(b"a\nb\nc\nd\ne\nf", mtime=0)])
def test_altered_hashes_are_refused(packed: Path, content: bytes | None) -> None:
    victim = min((packed / "results" / "documents").iterdir())
    if content is None:
        victim.unlink()
    else:
        victim.write_bytes(content)
    problems = verify(packed).problems
    assert problems and all(str(victim) in problem for problem in problems)
    with pytest.raises(LorafuseError, match="documents/"):
        build([packed / "results"])


def test_exchanged_scores_of_a_packed_cell_are_refused(packed: Path) -> None:
    sidecar = next((packed / "results").rglob("svd.items.json.gz"))
    content = gzip.decompress(sidecar.read_bytes()).replace(
        b"[1.0,0.0,1.0,0.0,1.0,0.0]", b"[0.0,1.0,0.0,1.0,0.0,1.0]"
    )
    sidecar.write_bytes(gzip.compress(content))
    problems = verify(packed).problems
    assert problems and all("svd.items.json.gz" in p and "items_sha256" in p for p in problems)


def test_the_dry_run_asks_nothing(published: Path, hub: tuple[str, list[object]]) -> None:
    done = lorafuse(published, hub[0], token=None)
    assert done.returncode == 0, done.stderr
    assert "dry run: 5 files for me/boards. Add --yes" in done.stdout
    assert "results/toy/mini-1/oracle.items.json.gz" in done.stdout
    assert "samples" not in done.stdout
    assert hub[1] == []


def test_all_files_go_up_in_one_commit(published: Path, hub: tuple[str, list[object]]) -> None:
    done = lorafuse(published, hub[0], "--yes", "--message", "First", token="hf_good")
    assert done.returncode == 0, done.stderr
    assert f"published: {hub[0]}/datasets/me/boards/commit/1" in done.stdout
    (body,) = [asked[3] for asked in Hub.asked if "/commit/" in asked[1]]
    lines = [json.loads(line) for line in body.decode().splitlines()]
    assert lines[0]["value"]["summary"] == "First"
    sent = {line["value"]["path"]: line["value"]["content"] for line in lines if line["key"] == "file"}
    assert base64.b64decode(sent["leaderboard.json"]) == (published / "leaderboard.json").read_bytes()
    assert len(sent) == 5
    assert not any("samples" in name for name in sent)


def test_a_refused_or_missing_token_is_one_line(published: Path, hub: tuple[str, list[object]]) -> None:
    done = lorafuse(published, hub[0], "--yes", token="hf_bad")
    assert done.returncode == 2
    assert "cannot publish to 'me/boards': " in done.stderr
    done = lorafuse(published, hub[0], "--yes", token=None)
    assert (done.returncode, done.stderr) == (
        2,
        "lorafuse: no token of the hub. Set HF_TOKEN, or run `hf auth login`.\n",
    )


def test_an_altered_board_is_not_published(published: Path, hub: tuple[str, list[object]]) -> None:
    board = published / "leaderboard.json"
    board.write_text(board.read_text().replace('"caption": "', '"caption": "The best. '))
    done = lorafuse(published, hub[0], "--yes", token="hf_good")
    assert done.returncode == 2
    assert "boards.0.caption" in done.stderr
    assert hub[1] == []


def test_each_file_is_read_and_each_metric_resampled_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `verify` of a published folder, whose board is built again, and by `pack`."""
    counts = [[4, 4, 4, 3, 2, 1, 4, 3, 2, 1], [4, 4, 2, 1, 0, 0, 4, 3, 2, 1]]
    for label in ("base", "oracle", "svd"):
        write(tmp_path / "results", label, {"one": counts * 8})
    read: list[Path] = []
    drawn: list[int] = []
    original, resampled = collect.read_cell, stats.resampled
    monkeypatch.setattr(collect, "read_cell", lambda path: read.append(path) or original(path))
    monkeypatch.setattr(
        stats, "resampled", lambda arrays, *rest: drawn.append(len(arrays)) or resampled(arrays, *rest)
    )
    pack([tmp_path / "results"], tmp_path / "packed", "A toy.")
    assert (len(read), drawn) == (3, [3])
    assert verify(tmp_path / "packed") == Report(results=3, boards=1, problems=())
    assert (len(read), drawn) == (6, [3, 3])
