"""A Ray cluster whose head is killed ends the command; the same one goes on without it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from toy_grid import SUITE, plan

from lorafuse_bench import runner
from lorafuse_bench.leaderboards.results import cell_files
from lorafuse_bench.zoo.manifest import Zoo

METHODS = "base,ties,concat,svd,knots,weight_sum"
BIN = Path(sys.executable).parent
ENVIRONMENT = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


def of_cluster(port: int) -> list[int]:
    """The head's processes: they are told the port."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes()
        except OSError:  # it has ended
            continue
        if str(port).encode() in words and (b"gcs_server" in words or b"raylet" in words):
            found.append(int(entry.parent.name))
    return found


@pytest.fixture
def cluster() -> Iterator[int]:
    """The port of a Ray cluster with two processors."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'lorafuse-bench[ray]'")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [BIN / "ray", "start", "--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    subprocess.run(words, env=ENVIRONMENT, check=True, capture_output=True)
    yield port
    for process in of_cluster(port):
        os.kill(process, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells which processes are the cluster's")
def test_what_a_lost_cluster_did_is_kept(zoo: Zoo, tmp_path: Path, cluster: int) -> None:
    command = [BIN / "lorafuse", "run", "--zoo", zoo.root, "--suites", SUITE, "--methods", METHODS]
    command += ["--limit", "1", "--batch-size", "8", "--device", "cpu", "--out", tmp_path / "out"]
    command += ["--engine", "ray", "--ray-address", f"127.0.0.1:{cluster}", "--workers", "2"]
    said = []
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        for line in run.stderr:
            said.append(line)
            if line.startswith("[1/"):
                for process in of_cluster(cluster):
                    os.kill(process, signal.SIGKILL)
    assert run.returncode not in (None, 0), said
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.json")}
    assert done, said
    paths = runner.run(plan(zoo, tmp_path / "out", METHODS))
    assert all(path.stat().st_mtime_ns == at for path, at in done.items()), "a finished cell was done again"
    whole = runner.run(plan(zoo, tmp_path / "whole", METHODS))
    assert [cell_files.read_cell(path)[1] for path in paths] == [
        cell_files.read_cell(path)[1] for path in whole
    ]
