"""Small results made for the tests of the leaderboard."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from lorafuse_bench.leaderboards.schema import Items, Result, TaskItems, write_cell
from lorafuse_bench.leaderboards.stats import statistic

Scores = dict[str, list[Any]]

FAMILIES = {"base": "reference", "oracle": "reference", "moa": "routing"}


def cell(label: str, scores: Scores, **changes: Any) -> tuple[Result, Items]:
    """A valid result whose tasks are `scores`: task key to per-item scores; `changes` replace fields.

    `loss` names tasks that are losses, `documents` makes other ones, `task` replaces fields of every task.
    """
    loss, documents = changes.pop("loss", ()), changes.pop("documents", "")
    of_every_task = changes.pop("task", {})
    tasks, items = {}, {}
    for key, values in scores.items():
        name = "nll" if key in loss else "bleu" if isinstance(values[0], list) else "acc"
        hashes = [hashlib.sha256(f"{documents}{key}/{i}".encode()).hexdigest() for i in range(len(values))]
        items[key] = {"doc_hashes": hashes, "metrics": {name: values}}
        documents_sha256 = TaskItems.model_validate(items[key]).docs_sha256()
        estimate = statistic(values, documents_sha256).estimate()
        metric = {
            "value": estimate.value,
            "stderr": estimate.se,
            "stderr_method": statistic(values).kind,
            "direction": "down" if key in loss else "up",
            "unit": "nats/token" if key in loss else "fraction",
        }
        tasks[key] = {
            "dataset": {"hub": f"somebody/{key}", "name": None, "split": "test"},
            "version": "1",
            "few_shot": 0,
            "n": len(values),
            "n_original": len(values),
            "metrics": {name: metric},
            "representative": name,
        } | of_every_task
    fields: dict[str, Any] = {
        "suite": "toy",
        "method": {
            "name": label.split(":")[0],
            "label": label,
            "family": FAMILIES.get(label, "merging"),
            "options": {"rank": 8},
            "version": "1",
            "source_sha256": "d" * 64,
        },
        "zoo": {"name": "mini", "seed": 1, "sha256": "a" * 64, "init": "shared"},
        "base": {
            "repo": "base",
            "revision": None,
            "sha256": "b" * 64,
            "tokenizer_sha256": "e" * 64,
            "dtype": "float32",
        },
        "experts": [
            {
                "name": "one",
                "revision": None,
                "sha256": "c" * 64,
                "rank": 8,
                "alpha": 16.0,
                "targets": ["q_proj"],
            }
        ],
        "routers": [],
        "seeds": {"python": 0, "numpy": 1234, "torch": 1234, "fewshot": 1234},
        "data": {"source": "mini", "splits": {"one": {"test": "test.parquet"}}},
        "limit": None,
        "batch_size": 8,
        "cost": {"fuse_seconds": 0.5, "eval_seconds": 2.0, "extra_parameters": 1024},
        "environment": {
            "versions": {"torch": "2.13.0"},
            "git_commit": "0" * 40,
            "git_dirty": False,
            "hardware": "a processor",
        },
        "tasks": tasks,
    }
    for name, change in changes.items():
        fields[name] = fields[name] | change if isinstance(change, dict) else change
    held = Items.model_validate(items)
    return Result.of(held, **fields), held


def write(out: Path, label: str, scores: Scores, **changes: Any) -> Path:
    """Write such a cell and return the path of its result file."""
    return write_cell(out, *cell(label, scores, **changes))
