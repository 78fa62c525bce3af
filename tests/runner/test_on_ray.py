"""`lorafuse run --engine ray`: a lost worker's cell is done by another, a lost head ends the command in a line."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from toy_grid import SUITE, plan

from lorafuse_bench import runner
from lorafuse_bench.leaderboards.results import cell_files
from lorafuse_bench.runner.grid import Grid
from lorafuse_bench.runner.kept import locked
from lorafuse_bench.zoo.manifest import Zoo

pytestmark = [
    pytest.mark.skipif(
        not find_spec("ray"), reason="Ray is not installed: pip install 'lorafuse-bench[ray]'"
    ),
    pytest.mark.skipif(sys.platform != "linux", reason="/proc tells whose child a process is"),
    pytest.mark.timeout(600),
]
METHODS = "base,ties,concat,svd,knots,weight_sum"
BIN = Path(sys.executable).parent
# Other tests may take the machine's memory and time: no worker is killed for that.
ENVIRONMENT = {"RAY_memory_monitor_refresh_ms": "0", "RAY_worker_register_timeout_seconds": "300"}
ENVIRONMENT |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
Process = subprocess.Popen[str]
Start = Callable[..., Process]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a command of this environment in a session of its own, which is ended with the test."""
    started: list[Process] = []

    def begin(*words: object) -> Process:
        asked = [str(BIN / str(words[0])), *map(str, words[1:])]
        started.append(subprocess.Popen(asked, stderr=subprocess.PIPE, text=True, start_new_session=True))
        return started[-1]

    with TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as short:  # a socket's path has 100 bytes
        for name, value in (ENVIRONMENT | {"RAY_TMPDIR": short}).items():
            monkeypatch.setenv(name, value)
        try:
            yield begin
        finally:
            for process in started:
                end(process)
                process.communicate()


def end(process: Process) -> None:
    """Kill all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def worker_of(process: Process) -> int:
    """A worker of Ray that the command started."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # another process that has ended
            number = int(entry.name)
            if os.getsid(number) == process.pid and b"ray::Remote" in (entry / "cmdline").read_bytes():
                return number
    raise AssertionError("no worker is left")


def run(
    start: Start, zoo: Zoo, out: Path, *words: str, heard: Callable[[Process, str], None]
) -> tuple[int, list[str]]:
    """The exit code of the command and the lines it said, each of which `heard` is given."""
    asked = ["lorafuse", "run", "--zoo", zoo.root, "--suites", SUITE, "--methods", METHODS, "--out", out]
    asked += ["--limit", "1", "--batch-size", "8", "--device", "cpu", "--engine", "ray", *words]
    process, said = start(*asked), []
    assert process.stderr is not None
    for line in process.stderr:
        said.append(line)
        heard(process, line)
    return process.wait(), said


def last_cell(zoo: Zoo, out: Path) -> AbstractContextManager[bool]:
    """Reserves the last cell as another run would, so that the command does not end before the context does."""
    return locked(Grid.of(plan(zoo, out, METHODS), lambda text: None).cells[-1].path)


def times(out: Path) -> dict[Path, int]:
    """When each result was written."""
    return {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}


def items(paths: list[Path]) -> list[object]:
    return [cell_files.read_cell(path)[1] for path in paths]


def test_two_workers_make_the_scores_of_one_process_although_one_is_killed(
    zoo: Zoo, tmp_path: Path, start: Start
) -> None:
    def heard(process: Process, line: str) -> None:
        if line.startswith("[1/"):
            os.kill(worker_of(process), signal.SIGKILL)
        if "its worker was lost, another continues" in line:
            reserved.close()

    with ExitStack() as reserved:
        assert reserved.enter_context(last_cell(zoo, tmp_path / "two"))
        code, said = run(start, zoo, tmp_path / "two", "--workers", "2", heard=heard)
    assert code == 0, said
    assert any("its worker was lost, another continues" in line for line in said), said
    done = times(tmp_path / "two")
    assert len(done) == len(METHODS.split(","))
    two = runner.run(plan(zoo, tmp_path / "two", METHODS))
    assert times(tmp_path / "two") == done, "a finished cell was done again"
    assert items(two) == items(runner.run(plan(zoo, tmp_path / "one", METHODS)))


def test_what_a_lost_cluster_did_is_kept(zoo: Zoo, tmp_path: Path, start: Start) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    cluster = start("ray", "start", "--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false")
    assert cluster.wait() == 0
    words = ["--ray-address", f"127.0.0.1:{port}", "--workers", "1"]

    def heard(process: Process, line: str) -> None:
        if line.startswith("[1/"):
            end(cluster)

    with last_cell(zoo, tmp_path / "out") as mine:
        assert mine
        code, said = run(start, zoo, tmp_path / "out", *words, heard=heard)
    assert code == 2, said
    assert said[-1].startswith("lorafuse: the Ray cluster is lost: its head at "), said
    assert f":{port} does not answer. Run the same command again" in said[-1]
    done = times(tmp_path / "out")
    assert done, said
    paths = runner.run(plan(zoo, tmp_path / "out", METHODS))
    assert times(tmp_path / "out") | done == times(tmp_path / "out"), "a finished cell was done again"
    assert items(paths) == items(runner.run(plan(zoo, tmp_path / "whole", METHODS)))
