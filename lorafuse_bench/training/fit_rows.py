"""The rows of a fit: those to learn on and those to choose by, separate from the experts' training rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.tasks.rows import Row, load_task, rendered, training_rows
from lorafuse_bench.tasks.suites import task as task_of
from lorafuse_bench.training.examples import Head, hold_out
from lorafuse_bench.zoo.entries import FittedOn
from lorafuse_bench.zoo.manifest import ArtefactEntry, Zoo

DEV = 200
"""Rows per task to choose by: of few training rows a fifth."""
HASHED = 500
"""Rows of a split that its hash reads at most."""


@dataclass(frozen=True)
class FitRows:
    """One task's rows. `fit` is learned on, `dev` chooses; `first_dev`: dev's place in the training split, if there.

    `documents`: the hash of the documents of `fit`.
    """

    task: str
    fit: Sequence[Row]
    dev: Sequence[Row]
    first_dev: int | None
    documents: str = ""


@lru_cache(8)
def fit_rows(
    tasks: tuple[str, ...], source: str, limit: int | None = None, dev: int = DEV
) -> tuple[FitRows, ...]:
    """The rows of each task; LorafuseError for a task that would have none to choose by.

    A task that is evaluated on a third split has dev rows in its validation split; any other gives the last
    `dev` of its training rows, at most a fifth.
    """
    return tuple(_of_task(task, source, limit, dev) for task in tasks)


def learned_from(
    zoo: Zoo,
    suite: str,
    tasks: tuple[str, ...],
    experts: Iterable[str],
    source: str,
    limit: int | None = None,
    dev: int = 0,
) -> FittedOn:
    """What a manifest says something was learned on; `experts` are their hashes, in order."""
    return FittedOn(
        suite=suite,
        tasks=tasks,
        experts=tuple(experts),
        base_sha256=zoo.manifest.base.sha256,
        rows_sha256=_sha256(tasks, source, limit, dev),
        documents_sha256=_documents(tasks, source, limit, dev),
        rows=limit,
        dev=dev,
    )


def rows_sha256(rows: Sequence[FitRows]) -> str:
    """Hash over how many rows there are, and what the model reads of them; of more than HASHED evenly spaced ones.

    So that a fit on hundreds of thousands of rows is checked in moments, each time that it is used.
    """
    digest = hashlib.sha256()
    for each in rows:
        for split in (each.fit, each.dev):
            count = min(len(split), HASHED)
            digest.update(len(split).to_bytes(8, "big"))
            for row in (split[i * len(split) // count] for i in range(count)):
                for text in (row.prompt, row.target):
                    digest.update(len(text.encode()).to_bytes(8, "big") + text.encode())
            digest.update(b"|")
    return digest.hexdigest()


def check_rows(zoo: Zoo, entry: ArtefactEntry, source: str) -> None:
    """LorafuseError where the rows in `source` are not those that an artefact was learned on."""
    known = entry.fitted_on
    if known is None:
        return
    try:
        found = _sha256(known.tasks, source, known.rows, known.dev)
    except LorafuseError:  # other data may have too few rows, or no such split
        found = ""
    if found != known.rows_sha256:
        raise LorafuseError(
            f"fit '{entry.name}' of zoo '{zoo.name}' is not of what is used now: the rows of its suite in {source}"
            f" changed. Fit again with `lorafuse fit`, or use the data it was fitted on."
        )


@lru_cache(32)
def _sha256(tasks: tuple[str, ...], source: str, limit: int | None, dev: int) -> str:
    return rows_sha256(fit_rows(tasks, source, limit, dev))


def _documents(tasks: tuple[str, ...], source: str, limit: int | None, dev: int) -> str:
    hashes = [rows.documents for rows in fit_rows(tasks, source, limit, dev)]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def forget() -> None:
    """Read rows again when they are next asked for: they may have been edited."""
    fit_rows.cache_clear()
    _sha256.cache_clear()


def seen_by(zoo: Zoo, rows: Sequence[FitRows]) -> list[str]:
    """Experts that were trained on dev rows of their task, as far as the zoo's records say."""
    seen = []
    for expert in zoo.manifest.experts:
        told = zoo.manifest.training.get("experts", {}).get(expert.name, {}).get("rows")
        learnt = expert.rows or dict.fromkeys(
            expert.tasks[:1], told
        )  # manifests of before 0.2 have records alone
        for each in rows:
            count = learnt.get(each.task)
            if count is not None and each.first_dev is not None and count > each.first_dev:
                seen.append(expert.name)
    return seen


def _of_task(task: str, source: str, limit: int | None, dev: int) -> FitRows:
    rows = training_rows(task, source)
    found = load_task(task_of(task).task, source)
    if found.config.test_split and found.config.validation_split:
        chosen: Sequence[Row] = rendered(found, found.config.validation_split, dev) if dev else []
        fit: Sequence[Row] = rows
        first = None
    else:
        fit, chosen = hold_out(rows, dev)
        first = len(fit)
    if dev and not len(chosen):
        raise LorafuseError(
            f"task '{task}' has {len(rows)} training rows and {dev} are asked for to choose by: none are left."
            " Use --dev 1 or more, and tasks of 5 rows or more."
        )
    count = len(fit) if limit is None else min(limit, len(fit))
    return FitRows(task, Head(fit, count), chosen, first, rows.documents_sha256(count))
