"""A Ray cluster whose head is killed ends the command; the same one goes on without it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from toy_grid import SUITE, plan

from lorafuse_bench import runner
from lorafuse_bench.leaderboards.results import cell_files
from lorafuse_bench.zoo.manifest import Zoo

METHODS = "base,ties,concat,svd,knots,weight_sum"
BIN = Path(sys.executable).parent
ENVIRONMENT = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


def end(folder: Path, *names: bytes) -> None:
    """Kill the cluster's processes, or those of these names: all are told its folder."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            words = entry.read_bytes()
            if bytes(folder) in words and any(name in words for name in names or [b""]):
                os.kill(int(entry.parent.name), signal.SIGKILL)


@pytest.fixture
def cluster() -> Iterator[tuple[int, Path]]:
    """The port and the folder of a Ray cluster with two processors; nothing of it is left."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'lorafuse-bench[ray]'")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [BIN / "ray", "start", "--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    with TemporaryDirectory(
        ignore_cleanup_errors=True
    ) as short:  # a socket's path may have a hundred bytes only
        folder = Path(short)
        subprocess.run([*words, f"--temp-dir={folder}"], env=ENVIRONMENT, check=True, capture_output=True)
        try:
            yield port, folder
        finally:
            end(folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells which processes are the cluster's")
def test_what_a_lost_cluster_did_is_kept(zoo: Zoo, tmp_path: Path, cluster: tuple[int, Path]) -> None:
    port, folder = cluster
    command = [BIN / "lorafuse", "run", "--zoo", zoo.root, "--suites", SUITE, "--methods", METHODS]
    command += ["--limit", "1", "--batch-size", "8", "--device", "cpu", "--out", tmp_path / "out"]
    command += ["--engine", "ray", "--ray-address", f"127.0.0.1:{port}", "--workers", "2"]
    said = []
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        for line in run.stderr:
            said.append(line)
            if line.startswith("[1/"):
                end(folder, b"gcs_server", b"raylet")
    assert run.returncode == 2, said
    assert said[-1].startswith("lorafuse: the Ray cluster is lost: its head at "), said
    assert f":{port} does not answer. Run the same command again" in said[-1]
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.json")}
    assert done, said
    paths = runner.run(plan(zoo, tmp_path / "out", METHODS))
    assert all(path.stat().st_mtime_ns == at for path, at in done.items()), "a finished cell was done again"
    whole = runner.run(plan(zoo, tmp_path / "whole", METHODS))
    assert [cell_files.read_cell(path)[1] for path in paths] == [
        cell_files.read_cell(path)[1] for path in whole
    ]
