"""What was asked, expected and answered: a gzipped JSON-lines sidecar beside each cell, one row per item.

Samples hold documents of the evaluated data. They stay with the results; a page carries them only where
the data is the package's own (see page.py).
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, ValidationError

from lorafuse_bench.errors import LorafuseError, unknown
from lorafuse_bench.files import write_bytes
from lorafuse_bench.leaderboards.measures import Array, Measure, fitting
from lorafuse_bench.leaderboards.results.cell_files import read_result
from lorafuse_bench.leaderboards.results.item_checks import measure_of
from lorafuse_bench.leaderboards.results.made_of import Strict
from lorafuse_bench.leaderboards.results.reading import MOST_TEXT, inflate
from lorafuse_bench.leaderboards.results.schema import Items, Result, invalid

SUFFIX = ".samples.jsonl.gz"


class Sample(Strict):
    """One item of one task, as one method answered it."""

    task: str = Field(description="Task key.")
    doc_id: int = Field(ge=0, description="Position of the document in its split.")
    doc_hash: str = Field(description="Hash of the document, as in the items sidecar.")
    prompt: str = Field(description="What the model was given.")
    target: str = Field(description="What was expected.")
    output: str | None = Field(
        description="What the model wrote; null where only likelihoods were asked for."
    )
    score: float = Field(description="The representative metric of this item alone; a loss per unit.")


@dataclass(frozen=True)
class Answer:
    """One output and the methods that gave it, by the order asked for."""

    output: str | None
    score: float
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Item:
    """One document and every method's answer to it, the best first."""

    task: str
    doc_id: int
    prompt: str
    target: str
    answers: tuple[Answer, ...]

    @property
    def disagreement(self) -> tuple[float, int]:
        """Range of the scores, then the number of different answers."""
        scores = [answer.score for answer in self.answers]
        return max(scores) - min(scores), len(self.answers)


def samples_path(path: str | Path) -> Path:
    """The samples beside a result file: `<label>.samples.jsonl.gz`."""
    path = Path(path)
    return path.with_name(path.name.removesuffix(".json") + SUFFIX)


def write_samples(cell_path: str | Path, rows: Iterable[Sample]) -> Path:
    """Write the samples of the cell whose result file is `cell_path`; the same rows give the same bytes."""
    path = samples_path(cell_path)
    lines = "".join(row.model_dump_json() + "\n" for row in rows)
    write_bytes(path, gzip.compress(lines.encode(), mtime=0))
    return path


def read_samples(cell_path: str | Path) -> list[Sample]:
    """The samples of a cell; LorafuseError naming the file and the line when they are not right."""
    path = samples_path(cell_path)
    try:
        lines = inflate(path, MOST_TEXT, "Run the cell again.").decode().split("\n")
    except UnicodeDecodeError as error:
        raise LorafuseError(f"{path}: cannot be read: {error}. Run the cell again.") from error
    rows = []
    for number, line in enumerate(lines[:-1], start=1):  # the last line ends, too
        try:
            rows.append(Sample.model_validate_json(line))
        except ValidationError as error:
            raise invalid(f"{path}: line {number}", error) from error
    return rows


def check_samples(path: Path, result: Result, items: Items) -> None:
    """LorafuseError where the samples beside a result are of other documents than its items, or scored otherwise."""
    if not samples_path(path).is_file():
        return
    rows: dict[str, list[Sample]] = {}
    for row in sorted(read_samples(path), key=lambda row: row.doc_id):
        rows.setdefault(row.task, []).append(row)
    for key, task in result.tasks.items():
        told, held = rows.get(key, []), items.root[key]
        scored = held.metrics[task.representative]
        scores = item_scores(scored, measure_of(task.metrics[task.representative], scored))
        of_these = [row.doc_hash for row in told] == list(held.doc_hashes)
        if not of_these or not np.allclose([row.score for row in told], scores, rtol=1e-6, atol=1e-9):
            raise LorafuseError(
                f"{samples_path(path)}: {key}: other {'scores' if of_these else 'documents'} than the items of {path}."
                " Run the cell again."
            )


def samples_in(folder: Path, task: str, methods: Sequence[str] | None = None) -> dict[str, list[Sample]]:
    """Label to samples of every cell below `folder` that has `task`, or of `methods` alone.

    LorafuseError where there are none, a name is unknown, or the cells are of several suites or zoos.
    """
    paths = [p.with_name(p.name.removesuffix(SUFFIX) + ".json") for p in sorted(folder.rglob("*" + SUFFIX))]
    if not paths:
        raise LorafuseError(f"{folder}: no samples here. Give a folder that `lorafuse run --out` wrote to.")
    results = {path: read_result(path) for path in paths}
    having = {path: result for path, result in results.items() if task in result.tasks}
    if not having:
        raise unknown("task", task, {key for result in results.values() for key in result.tasks})
    _require_one_grid(folder, having)
    cells = {result.method.label: path for path, result in having.items()}
    for label in methods or ():
        if label not in cells:
            raise unknown("method", label, cells)
    return {label: read_samples(cells[label]) for label in methods or sorted(cells)}


def _require_one_grid(folder: Path, results: Mapping[Path, Result]) -> None:
    """Answers compare only to the same prompts: one suite (its experts), one zoo, one seed."""
    grids = {(r.suite, r.zoo.name, r.zoo.seed): path.parent for path, r in results.items()}
    if len(grids) > 1:
        folders = ", ".join(sorted(str(parent) for parent in grids.values()))
        raise LorafuseError(f"{folder}: results of several suites or zoos. Give one of {folders}.")


def of_lm_eval(task: str, samples: Sequence[Mapping[str, Any]], scores: Iterable[float]) -> list[Sample]:
    """Rows from lm-eval's logged samples of one leaf task, by doc_id, as their `scores` are."""
    return [
        Sample(
            task=task,
            doc_id=sample["doc_id"],
            doc_hash=sample["doc_hash"],
            prompt="" if len(sample["arguments"][0]) == 1 else str(sample["arguments"][0][0]),
            target=str(sample["target"]),
            output=_output(sample["filtered_resps"][0]),
            score=float(score),
        )
        for sample, score in zip(sorted(samples, key=lambda sample: sample["doc_id"]), scores, strict=True)
    ]


def _output(response: Any) -> str | None:
    """Generated text; log-likelihoods are no text."""
    return response if isinstance(response, str) else None


def item_scores(items: Any, measure: Measure | None = None) -> Array:
    """(n,) each item's score alone: itself, a ratio, whether a label is right, or the (smoothed) BLEU of a sentence."""
    measure = measure or fitting(items)
    return measure.per_item(measure.array(items))


def side_by_side(cells: Mapping[str, Sequence[Sample]], task: str) -> list[Item]:
    """The documents of a task with the answers of every label's samples, disagreements first.

    A document that some method was not asked is left out: it could not be compared.
    """
    by_label = {
        label: {(row.doc_id, row.doc_hash): row for row in rows if row.task == task}
        for label, rows in cells.items()
    }
    shared = set.intersection(*(set(rows) for rows in by_label.values())) if by_label else set()
    items = []
    for document in shared:
        held = {label: rows[document] for label, rows in by_label.items()}
        some = next(iter(held.values()))
        items.append(Item(task, some.doc_id, some.prompt, some.target, _answers(held)))
    return sorted(items, key=lambda item: (*(-x for x in item.disagreement), item.doc_id))


def _answers(held: Mapping[str, Sample]) -> tuple[Answer, ...]:
    """Equal answers count once; a loss has no answer, so each method counts by itself."""
    groups: dict[tuple[str | None, float], list[str]] = {}
    for label, row in held.items():
        groups.setdefault((row.output, row.score), []).append(label)
    answers = [Answer(output, score, tuple(labels)) for (output, score), labels in groups.items()]
    return tuple(sorted(answers, key=lambda answer: (-answer.score, answer.labels)))
