"""Training rows, rendered by the very task that evaluates: same YAML, same prompt, same target."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from lorafuse_bench.errors import LorafuseError, unknown
from lorafuse_bench.tasks.suites import OBLIVION, PREFIX, REPRESENTATIVE, SUITES


@dataclass(frozen=True)
class Row:
    """One training example: the model reads `prompt` and learns to write `target`."""

    prompt: str
    target: str  # begins with the task's target delimiter, a space
    doc_id: int  # position in the split, after the task's own selection of rows


def training_rows(key: str, source: str, split: str = "train", limit: int | None = None) -> list[Row]:
    """The first `limit` rows of a task's split, as text to learn from.

    `key` is a task key such as `sst2`; `source` is `hub`, `mini` or a directory (see `resolve_source`).
    Raises LorafuseError for an unknown key, source, split or column, and for a task of oblivion.
    """
    if key not in REPRESENTATIVE:
        raise unknown("task", key, REPRESENTATIVE)
    if any(key in SUITES[suite] for suite in OBLIVION):
        raise LorafuseError(
            f"'{key}' is for measuring what a model forgets, not for training. Name another task."
        )
    if limit is not None and limit < 1:
        raise LorafuseError(f"limit {limit} is not a number of rows. Use 1 or more, or leave it out.")
    return rendered(load_task(PREFIX + key, source), split, limit)


def rendered(task: Any, split: str, limit: int | None = None) -> list[Row]:
    """The first `limit` rows of a task's split, as the task itself writes them."""
    docs = task.dataset[split]
    if task.config.process_docs is not None:
        docs = task.config.process_docs(docs)
    if limit is not None:
        docs = docs.select(range(min(limit, len(docs))))
    delimiter = task.config.target_delimiter
    return [
        Row(task.doc_to_text(doc), delimiter + task.doc_to_target(doc), doc_id)
        for doc_id, doc in enumerate(docs)
    ]


def load_task(name: str, source: str) -> Any:
    """The lm-eval task called `name`, with its rows from `source`."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(
        include_defaults=False, include_path=str(files("lorafuse_bench.tasks")), metadata={"data": source}
    )
    return manager.load([name])["tasks"][name]
