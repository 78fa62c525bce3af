"""How long a large board takes to build: made-up results, the real command in a process of its own."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from lorafuse_bench.bench.timing import machine, target
from lorafuse_bench.leaderboards.measures import Array
from lorafuse_bench.leaderboards.results.cell_files import write_cell
from lorafuse_bench.leaderboards.results.plausible import REFERENCES
from lorafuse_bench.leaderboards.results.schema import Items, Result, TaskItems
from lorafuse_bench.leaderboards.statistics import stats

SECONDS, GIGABYTES = 60.0, 2.0
# Of every ten tasks: how many are scored by a mean, by corpus BLEU and by a loss.
KINDS = ("acc",) * 7 + ("bleu",) * 2 + ("nll",)
DIGEST = "0" * 64


def run(methods: int = 100, tasks: int = 20, items: int = 1000) -> dict[str, Any]:
    """Build a board of `methods` (base and oracle besides) on `tasks` of `items` each; time and memory."""
    with tempfile.TemporaryDirectory() as folder:
        results, board = Path(folder) / "results", Path(folder) / "leaderboard.json"
        write_results(results, methods, tasks, items)
        seconds, cpu_seconds, peak = _build(results, board)
        size = board.stat().st_size
    return {
        "schema": "lorafuse.bench.leaderboard/1",
        "machine": machine(),
        "methods": methods,
        "tasks": tasks,
        "items": items,
        "draws": stats.BOOTSTRAP_DRAWS,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_bytes": peak,
        "board_bytes": size,
        "targets": [
            target("seconds to build the board", seconds, at_most=SECONDS),
            target("GB in memory at its peak", peak / 1e9, at_most=GIGABYTES),
        ],
    }


def _build(results: Path, board: Path) -> tuple[float, float, int]:
    """Seconds, processor seconds and peak resident bytes of `lorafuse leaderboard build`, with the interpreter's start.

    The bytes are never below those of this process when it started the other: the system counts both.
    """
    command = "from lorafuse_bench.cli import main; main()"
    arguments = ["leaderboard", "build", str(results), "--out", str(board)]
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", command, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if os.waitstatus_to_exitcode(status) != 0:
        raise RuntimeError("lorafuse leaderboard build failed; its message is above")
    return (
        seconds,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    )


def write_results(out: Path, methods: int, tasks: int, items: int) -> None:
    """Cells of base, oracle and methods of every quality between them, as the runner writes them."""
    labels = ["base", "oracle", *(f"method-{i:03}" for i in range(methods))]
    quality = [0.05, 0.95, *np.linspace(0.2, 0.9, methods)]
    held: dict[str, dict[str, TaskItems]] = {label: {} for label in labels}
    entries: dict[str, dict[str, Any]] = {label: {} for label in labels}
    for place in range(tasks):
        key, kind = f"task-{place:02}", KINDS[place % len(KINDS)]
        hashes = tuple(hashlib.sha256(f"{key}/{i}".encode()).hexdigest() for i in range(items))
        luck = np.random.default_rng(place).random(items)
        tables = [_scores(kind, level, luck) for level in quality]
        documents = TaskItems(doc_hashes=hashes, metrics={}).docs_sha256()
        for label, table, found in zip(labels, tables, stats.statistics(tables, documents), strict=True):
            held[label][key] = TaskItems(doc_hashes=hashes, metrics={kind: table.tolist()})
            entries[label][key] = _entry(kind, items, found)
    for label in labels:
        content = Items(held[label])
        write_cell(out, Result.of(content, entries[label], **_fields(label)), content)


def _scores(kind: str, level: float, luck: Array) -> Array:
    """Items of one method: the lucky ones are right."""
    good = luck < level
    if kind == "bleu":
        right = np.array([20, 20, 20, 19, 18, 17, 20, 19, 18, 17.0])
        wrong = np.array([20, 20, 9, 3, 1, 0, 20, 19, 18, 17.0])
        return np.where(good[:, None], right, wrong)
    if kind == "nll":
        return np.stack([np.where(good, 1.0, 3.0) + luck, np.ones_like(luck)], axis=1)
    return good.astype(np.float64)


def _entry(kind: str, items: int, found: stats.Statistic) -> dict[str, Any]:
    return {
        "dataset": {"hub": "made/up", "name": None, "split": "test"},
        "version": "1",
        "few_shot": 0,
        "n": items,
        "n_original": items,
        "metrics": {
            kind: {
                "value": found.value,
                "stderr": found.estimate().se,
                "stderr_method": found.kind,
                "direction": "down" if kind == "nll" else "up",
                "unit": "nats/token" if kind == "nll" else "fraction",
            }
        },
        "representative": kind,
    }


def _fields(label: str) -> dict[str, Any]:
    """Everything else of a result."""
    family = REFERENCES.get(label, "merging")
    method = {"name": label, "label": label, "family": family, "options": {}, "version": "1"}
    return {
        "suite": "made-up",
        "method": {**method, "source_sha256": DIGEST},
        "zoo": {"name": "made-up", "seed": 0, "sha256": DIGEST, "init": "shared"},
        "base": {
            "repo": "base",
            "revision": None,
            "sha256": DIGEST,
            "tokenizer_sha256": DIGEST,
            "dtype": "float32",
        },
        "experts": [],
        "artefacts": [],
        "data": {"source": "made-up", "splits": {}},
        "limit": None,
        "batch_size": 1,
        "seeds": {"python": 0, "numpy": 0, "torch": 0, "fewshot": 0},
        "cost": {"fuse_seconds": 0.0, "eval_seconds": 1.0, "extra_parameters": 0},
        "environment": {"versions": {}, "git_commit": None, "git_dirty": None, "hardware": "none"},
    }
