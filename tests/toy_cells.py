"""Small results made for the tests of the leaderboard."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from lorafuse_bench.leaderboards.schema import Items, Result, TaskItems, write_cell
from lorafuse_bench.leaderboards.stats import statistic

Scores = dict[str, list[Any]]

FAMILIES = {"base": "reference", "oracle": "reference", "moa": "routing"}
# Everything of a result but its method and its tasks.
FIELDS: dict[str, Any] = {
    "suite": "toy",
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
    "truncation": None,
    "batch_size": 8,
    "cost": {"fuse_seconds": 0.5, "eval_seconds": 2.0, "extra_parameters": 1024},
    "environment": {
        "versions": {"torch": "2.13.0"},
        "git_commit": "0" * 40,
        "git_dirty": False,
        "hardware": "a processor",
    },
}


def cell(label: str, scores: Scores, **changes: Any) -> tuple[Result, Items]:
    """A valid result whose tasks are `scores`: task key to per-item scores; `changes` replace fields.

    `loss` names tasks that are losses, `documents` makes other ones, `task` replaces fields of every task.
    """
    loss, documents = changes.pop("loss", ()), changes.pop("documents", "")
    of_every_task = changes.pop("task", {})
    items = {key: items_of(key, values, key in loss, documents) for key, values in scores.items()}
    tasks = {key: task_of(key, held, key in loss) | of_every_task for key, held in items.items()}
    fields = {"method": method_of(label), "tasks": tasks, **FIELDS}
    for name, change in changes.items():
        fields[name] = (fields[name] or {}) | change if isinstance(change, dict) else change
    held = Items(items)
    return Result.of(held, **fields), held


def items_of(key: str, values: list[Any], loss: bool, documents: str) -> TaskItems:
    """The task's items; the kind of its values says which metric they are of."""
    name = "nll" if loss else "bleu" if isinstance(values[0], list) else "acc"
    hashes = [hashlib.sha256(f"{documents}{key}/{i}".encode()).hexdigest() for i in range(len(values))]
    return TaskItems.model_validate({"doc_hashes": hashes, "metrics": {name: values}})


def task_of(key: str, held: TaskItems, loss: bool) -> dict[str, Any]:
    """The task's entry in the result, as its items make it."""
    ((name, values),) = held.metrics.items()
    found = statistic(values, held.docs_sha256())
    metric = {
        "value": found.value,
        "stderr": found.estimate().se,
        "stderr_method": found.kind,
        "direction": "down" if loss else "up",
        "unit": "nats/token" if loss else "fraction",
    }
    return {
        "dataset": {"hub": f"somebody/{key}", "name": None, "split": "test"},
        "version": "1",
        "few_shot": 0,
        "n": len(values),
        "n_original": len(values),
        "metrics": {name: metric},
        "representative": name,
    }


def method_of(label: str) -> dict[str, Any]:
    return {
        "name": label.split(":")[0],
        "label": label,
        "family": FAMILIES.get(label, "merging"),
        "options": {"rank": 8},
        "version": "1",
        "source_sha256": "d" * 64,
    }


def write(out: Path, label: str, scores: Scores, **changes: Any) -> Path:
    """Write such a cell and return the path of its result file."""
    return write_cell(out, *cell(label, scores, **changes))
