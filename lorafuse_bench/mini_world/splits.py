"""The mini data directory: which tasks exist, their splits, and how they are written."""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow
from datasets import Features, List, Value
from datasets.features import ClassLabel, Translation
from pyarrow import parquet

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import write_bytes
from lorafuse_bench.mini_world import task_rows
from lorafuse_bench.mini_world.families import family_tasks
from lorafuse_bench.mini_world.task_rows import Row
from lorafuse_bench.mini_world.world import World

TRAIN_ROWS, SMALL_TRAIN_ROWS, EVALUATION_ROWS = 3000, 500, 200
STRING, INT32 = Value("string"), Value("int32")
RECORD = "build.json"
"""File of a finished part of a zoo that says what it was built from."""
EVALUATION_SHARE = 16
"""Of 256 hash values, those below this belong to the evaluation split."""


@dataclass(frozen=True)
class MiniTask:
    """One generated task in the form of its hub data set."""

    key: str
    hub: str
    config: str
    evaluation: str
    """Name of the split that is evaluated."""
    inputs: tuple[str, ...]
    """Columns that the prompt shows."""
    features: Features
    row: Callable[[World, random.Random], Row]
    number: Callable[[int], Row] = lambda index: {}
    """The columns that number a row."""
    train_rows: int = TRAIN_ROWS
    evaluation_rows: int = EVALUATION_ROWS
    training: str = "train"
    """Name of the split that is learnt from."""

    @property
    def folder(self) -> str:
        """Folder below the data directory."""
        return f"{self.hub.replace('/', '__')}/{self.config}"


def columns(*strings: str, **others: object) -> Features:
    return Features({**dict.fromkeys(strings, STRING), **others})


def idx(index: int) -> Row:
    return {"idx": index}


def padded_id(index: int) -> Row:
    return {"id": f"{index:05d}"}


ANSWERS = {"text": List(STRING), "answer_start": List(INT32)}
TURNS = List({"from": STRING, "value": STRING})

NAMED_TASKS: tuple[MiniTask, ...] = (
    MiniTask("cnn_dailymail", "abisee/cnn_dailymail", "3.0.0", "validation", ("article",),
             columns("article", "highlights", "id"), task_rows.cnn_dailymail, padded_id),
    MiniTask("wmt14_en_de", "wmt/wmt14", "de-en", "test", ("translation",),
             Features({"translation": Translation(languages=["de", "en"])}), task_rows.wmt14_en_de),
    MiniTask("squad", "rajpurkar/squad", "plain_text", "validation", ("context", "question"),
             columns("id", "title", "context", "question", answers=ANSWERS), task_rows.squad, padded_id),
    MiniTask("sst2", "nyu-mll/glue", "sst2", "validation", ("sentence",),
             columns("sentence", label=ClassLabel(names=["negative", "positive"]), idx=INT32),
             task_rows.sst2, idx),
    MiniTask("mnli", "nyu-mll/glue", "mnli", "validation_matched", ("premise", "hypothesis"),
             columns("premise", "hypothesis",
                       label=ClassLabel(names=["entailment", "neutral", "contradiction"]), idx=INT32),
             task_rows.mnli, idx),
    MiniTask("paws", "google-research-datasets/paws", "labeled_final", "validation", ("sentence1",),
             Features({"id": INT32, "sentence1": STRING, "sentence2": STRING,
                       "label": ClassLabel(names=["0", "1"])}),
             task_rows.paws, lambda index: {"id": index}),
    MiniTask("piqa", "baber/piqa", "default", "validation", ("goal", "sol1", "sol2"),
             columns("goal", "sol1", "sol2", label=ClassLabel(names=["0", "1"])), task_rows.piqa),
    MiniTask("gsm8k", "openai/gsm8k", "main", "test", ("question",), columns("question", "answer"),
             task_rows.gsm8k, train_rows=SMALL_TRAIN_ROWS),
    MiniTask("dialogue", "google-research-datasets/schema_guided_dstc8", "sharegpt_style", "validation",
             ("conversations",), columns("id", services=List(STRING), conversations=TURNS),
             task_rows.dialogue, padded_id, train_rows=SMALL_TRAIN_ROWS),
)  # fmt: skip
MTL7 = tuple(task.key for task in NAMED_TASKS[:7])


def mini_tasks(count: int) -> tuple[MiniTask, ...]:
    """The first `count` tasks: mtl7, GSM8K, dialogue, then as many family tasks as asked for."""
    families = [
        MiniTask(task.key, "mini/families", task.key, "validation", ("text",),
                 columns("text", "instruction", "target"), task.row)
        for task in family_tasks()
    ]  # fmt: skip
    known = (*NAMED_TASKS, *families)
    if not 1 <= count <= len(known):
        raise LorafuseError(
            f"{count} mini tasks asked for; the world has 1 to {len(known)}. Choose a count in that range."
        )
    return known[:count]


def identity(task: MiniTask, row: Row) -> str:
    """What the prompt of a row is made of, as one string."""
    shown = {column: row[column] for column in task.inputs}
    if "translation" in shown:
        shown["translation"] = row["translation"]["en"]
    return json.dumps(shown, sort_keys=True)


def is_evaluation(text: str) -> bool:
    """Which side of the split a prompt belongs to, by its hash alone."""
    return hashlib.sha256(text.encode()).digest()[0] < EVALUATION_SHARE


def task_splits(task: MiniTask, world: World) -> dict[str, list[Row]]:
    """Distinct rows of the training and the evaluation split."""
    rng = random.Random(f"lorafuse rows {world.seed} {task.key}")
    sizes = {task.training: task.train_rows, task.evaluation: task.evaluation_rows}
    splits: dict[str, list[Row]] = {split: [] for split in sizes}
    seen: set[str] = set()
    while any(len(rows) < sizes[split] for split, rows in splits.items()):
        row = task.row(world, rng)
        text = identity(task, row)
        split = task.evaluation if is_evaluation(text) else task.training
        if text in seen or len(splits[split]) == sizes[split]:
            continue
        seen.add(text)
        splits[split].append({**task.number(len(splits[split])), **row})
    return splits


def write_data(world: World, folder: Path, tasks: tuple[MiniTask, ...]) -> None:
    """Write every split as `<hub id>/<config>/<split>.parquet` below `folder`."""
    for task in tasks:
        for split, rows in task_splits(task, world).items():
            table = pyarrow.Table.from_pylist(rows, schema=task.features.arrow_schema)
            buffer = io.BytesIO()
            parquet.write_table(table, buffer)
            write_bytes(folder / task.folder / f"{split}.parquet", buffer.getvalue())
