"""Files: what a kill leaves, what reaches the disk, what is read and what is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lorafuse_bench import files
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.locks import held, is_held, sweep

KILLED_AT_RENAME = """
import os, signal, sys
from pathlib import Path
from lorafuse_bench import files
os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "file":
    files.write_bytes(Path(sys.argv[1]) / "result.json", b"{}")
else:
    with files.new_folder(Path(sys.argv[1]) / "export") as folder:
        (folder / "weights").write_bytes(b"0")
"""
SWEEPS = (
    "import sys; from pathlib import Path; from lorafuse_bench.locks import sweep; sweep(Path(sys.argv[1]))"
)
HOLDS = """
import sys, time
from pathlib import Path
from lorafuse_bench.locks import held
with held(Path(sys.argv[1])) as mine:
    print(mine, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_kill_at_the_rename_leaves_is_removed_by_the_next_write(tmp_path: Path, kind: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED_AT_RENAME, str(tmp_path), kind])
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".")
    files._sweep_once.cache_clear()
    files.write_text(tmp_path / "next.json", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["next.json"]


def test_what_is_being_written_is_not_swept(tmp_path: Path) -> None:
    with files.new_folder(tmp_path / "export") as folder:
        subprocess.run([sys.executable, "-c", SWEEPS, str(tmp_path)], check=True)
        assert folder.is_dir()
        (folder / "weights").write_bytes(b"0")
    assert (tmp_path / "export" / "weights").is_file()


def test_a_lock_is_one_process_s_and_ends_with_it(tmp_path: Path) -> None:
    lock = tmp_path / ".cell.lock"
    other = subprocess.Popen([sys.executable, "-c", HOLDS, str(lock)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "True\n"
    assert is_held(lock)
    with held(lock) as mine:
        assert not mine
    sweep(tmp_path)
    assert lock.exists()
    other.kill()
    other.wait()
    assert not is_held(lock)
    with held(lock) as mine:
        assert mine
    assert not lock.exists()


def test_content_and_names_are_on_the_disk_before_and_after_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        events.append(f"sync {Path(f'/proc/self/fd/{descriptor}').resolve().name}")
        fsync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        events.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    files.write_bytes(tmp_path / "new" / "a.json", b"{}")
    made, content, rename, folder = events
    assert (made, rename, folder) == (f"sync {tmp_path.name}", "rename", "sync new")
    assert content.startswith("sync .a.json.")
    events.clear()
    with files.new_folder(tmp_path / "export") as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "weights").write_bytes(b"0")
    assert events == [
        "sync deep",
        "sync weights",
        f"sync {temporary.name}",
        "rename",
        f"sync {tmp_path.name}",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "nested too deeply"),
        ('{"a": "é"}'.encode("latin-1"), "is not JSON: 'utf-8' codec"),
        (b'{"a": 1', "is not JSON: "),
        (b"", "is not JSON: "),
        (b"[1]", "holds a list where a JSON object"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON: "),
    ],
)
def test_json_that_is_not_ours_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(LorafuseError) as caught:
        files.read_json(path, "Save it again.")
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert str(caught.value).endswith(" Save it again.")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": {"b": 1, "b": 2}}', "'b' stands twice"),
        ('{"a": NaN}', "a is nan"),
        ('{"a": [1, -1e999]}', r"a\.1 is -inf"),
        ('{"a": "\\ud800"}', "a holds half a character"),
        ('{"\\ud800": 1}', "holds half a character"),
    ],
)
def test_what_readers_of_json_disagree_on_is_refused_in_our_own_formats(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    assert files.read_json(path, "")  # a model's configuration is transformers' to judge
    with pytest.raises(LorafuseError, match=message):
        files.read_json(path, "Save it again.", files.strict_json)


def test_nesting_that_files_have_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"a":' * 60 + "[1]" + "}" * 60)
    assert list(files.read_json(path, "")) == ["a"]


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.json"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(LorafuseError, match=r"x\.json (cannot be read: No such|is not a regular file)"):
        files.read_bytes(path, "Restore it.")


def test_a_folder_is_tried_before_it_is_needed(tmp_path: Path) -> None:
    files.check_writable(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for folder in (
        tmp_path / "link" / "b",
        tmp_path / "file",
        tmp_path / "file" / "b",
        Path("/proc/nowhere"),
        tmp_path / ("n" * 300),
    ):
        with pytest.raises(LorafuseError, match="cannot write"):
            files.check_writable(folder)


def test_a_list_of_numbers_is_one_line_and_text_stays_as_it_is(tmp_path):
    content = {"row": [1, -2.5e-07, 3.0], "text": "[\n 1,\n 2\n]", "mixed": ["1", 2], "empty": []}
    files.write_json(tmp_path / "a.json", content)
    assert files.read_json(tmp_path / "a.json", "") == content
    assert ' "row": [1, -2.5e-07, 3.0],\n' in (tmp_path / "a.json").read_text()
