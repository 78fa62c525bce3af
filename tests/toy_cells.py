"""Small results made for the tests of the leaderboard."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import write_bytes, write_json
from lorafuse_bench.leaderboards.measures import Measure, fitting, measures
from lorafuse_bench.leaderboards.results.cell_files import write_cell
from lorafuse_bench.leaderboards.results.layout import cell_path, items_path
from lorafuse_bench.leaderboards.results.run_ids import run_id
from lorafuse_bench.leaderboards.results.samples import Sample, write_samples
from lorafuse_bench.leaderboards.results.schema import Items, Result, TaskItems
from lorafuse_bench.leaderboards.statistics.stats import statistic
from lorafuse_bench.tasks.suites import suite as suite_of

Scores = dict[str, list[Any]]

LOSSES = {"nll_per_byte": "nats/byte"}
FAMILIES = {"base": "floor", "oracle": "reference", "moa": "routing"}
REQUEST: dict[str, Any] = {
    "output_type": "generate_until",
    "generation": {"until": ["\n"], "do_sample": False},
    "filters": None,
    "repeats": 1,
    "prompts_sha256": "f" * 64,
}
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
    "artefacts": [],
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

    `loss` names tasks that are losses, `documents` makes other ones, `hashed` hashes of ones. `task` and `metric`
    replace fields of every task and of its metric.
    """
    loss, documents = changes.pop("loss", ()), changes.pop("documents", "")
    of_every_task = changes.pop("task", {})
    metric, hashed = changes.pop("metric", {}), changes.pop("hashed", None)
    suite = changes.get("suite", "toy")
    items = {
        key: items_of(suite, key, values, key in loss, partial(hashed or hash_of, f"{documents}{key}"))
        for key, values in scores.items()
    }
    tasks = {key: task_of(key, held, key in loss, metric) | of_every_task for key, held in items.items()}
    fields = {"method": method_of(label), "tasks": tasks, **FIELDS}
    fields["data"] = {"source": "mini", "splits": {key: {"test": "test.parquet"} for key in scores}}
    if label == "base":
        fields["cost"] = {**FIELDS["cost"], "extra_parameters": 0}
    for name, change in changes.items():
        fields[name] = (fields.get(name) or {}) | change if isinstance(change, dict) else change
    held = Items(items)
    return Result.of(held, **fields), held


def hash_of(documents: str, i: int) -> str:
    return hashlib.sha256(f"{documents}/{i}".encode()).hexdigest()


def items_of(suite: str, key: str, values: list[Any], loss: bool, hashed: Callable[[int], str]) -> TaskItems:
    """The task's items, of the metric that a suite of ours has, else of the one that their kind says."""
    name = "nll" if loss else "bleu" if isinstance(values[0], list) else "acc"
    try:
        ours = suite_of(suite).tasks
    except LorafuseError:  # of nobody here
        ours = {}
    name = ours[key].metric if key in ours else name
    hashes = [hashed(i) for i in range(len(values))]
    return TaskItems.model_validate({"doc_hashes": hashes, "metrics": {name: values}})


def task_of(key: str, held: TaskItems, loss: bool, changes: dict[str, Any]) -> dict[str, Any]:
    """The task's entry in the result, as its items make it."""
    ((name, values),) = held.metrics.items()
    found = statistic(values, held.docs_sha256(), measure_of(values, loss))
    metric = {
        "value": found.value,
        "stderr": found.estimate().se,
        "stderr_method": found.kind,
        "measure": found.measure.name,
        "direction": "down" if loss or name in LOSSES else "up",
        "unit": LOSSES.get(name, "nats/token" if loss else "fraction"),
        **changes,
    }
    return {
        "requests": {key: REQUEST},
        "dataset": {"hub": f"somebody/{key}", "name": None, "split": "test"},
        "version": "1",
        "few_shot": 0,
        "n": len(values),
        "n_original": len(values),
        "metrics": {name: metric},
        "representative": name,
    }


def measure_of(values: list[Any], loss: bool) -> Measure:
    """The measure that items of that shape had in version 1, or the newest of their width."""
    try:
        return fitting(values, "nats/token" if loss else "fraction")
    except LorafuseError:
        return [each for each in measures().values() if each.width == len(values[0])][-1]


def method_of(label: str) -> dict[str, Any]:
    name, _, options = label.partition(":")
    said = dict(part.partition("=")[::2] for part in options.split("+") if part)
    return {
        "name": name,
        "label": label,
        "family": FAMILIES.get(label, "merging"),
        "options": {"rank": 8, **said},
        "version": "1",
        "source_sha256": "d" * 64,
    }


def forge(out: Path, label: str, scores: Scores, **changes: Any) -> Path:
    """The same without any check: what somebody writes by hand, with hashes that agree."""
    result, items = cell(label, scores, **changes)
    path = cell_path(out, result.suite, result.zoo.name, result.zoo.seed, result.method.label)
    write_bytes(items_path(path), gzip.compress(items.content()))
    write_json(path, result.model_dump(mode="json", by_alias=True))
    return path


def rewrite(path: Path, field: str, value: Any) -> None:
    """Replace a field of a result file (`zoo.seed`), and the run id with it."""
    content = json.loads(path.read_text())
    *places, last = (int(part) if part.isdigit() else part for part in field.split("."))
    inner = content
    for place in places:
        inner = inner[place]
    inner[last] = value
    content["run_id"] = run_id(content)
    path.write_text(json.dumps(content))


def write(out: Path, label: str, scores: Scores, **changes: Any) -> Path:
    """Write such a cell and return the path of its result file."""
    return write_cell(out, *cell(label, scores, **changes))


def write_losses(out: Path, label: str, *means: float, **changes: Any) -> None:
    """A cell of a suite of losses whose tasks `t0`, `t1`, ... have items evenly around these means."""
    scores: Scores = {f"t{i}": [mean - 0.01, mean + 0.01] * 20 for i, mean in enumerate(means)}
    tasks = [{"key": key, "metric": "nll", "direction": "down", "unit": "nats/token"} for key in scores]
    kept = {"kind": "loss", "tasks": tasks}
    write(out, label, scores, suite="losses", definition=kept, loss=tuple(scores), **changes)


def with_samples(out: Path, label: str, scores: list[float]) -> Path:
    """A cell, and the answers that its scores came from."""
    path = write(out, label, {"one": scores})
    said = {"task": "one", "prompt": "p", "target": "yes", "output": label}
    rows = [
        said | {"doc_id": i, "doc_hash": hash_of("one", i), "score": score} for i, score in enumerate(scores)
    ]
    write_samples(path, map(Sample.model_validate, rows))
    return path
