"""A handful of rows for every task in directory form, with the hub's columns and types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
from datasets import ClassLabel, Dataset, Features, Value
from handmade_labels import LABEL_DATASETS

from lorafuse_bench.tasks.suites import suite

Doc = dict[str, Any]
_TEXT = Value("string")


def _labels(texts: tuple[str, ...], names: list[str]) -> Features:
    return Features({**dict.fromkeys(texts, _TEXT), "label": ClassLabel(names=names)})


SUMMARIES: list[Doc] = [
    {
        "article": "The mill burned down. Nobody was hurt.",
        "highlights": "Mill burned down .\nNobody hurt .",
        "id": "a",
    },
    {"article": "A bridge opened today.", "highlights": "A bridge opened .", "id": "b"},
    {"article": "Rain fell on the town all week.", "highlights": "It rained all week .", "id": "c"},
]
PAIRS: list[Doc] = [
    {"translation": {"de": "Das Haus ist sehr klein und alt.", "en": "The house is very small and old."}},
    {"translation": {"de": "Wir gehen heute nach Hause.", "en": "We go home today."}},
    {"translation": {"de": "[1]", "en": "[1]"}},  # would become a Python list if lm-eval rendered the target
]
QUESTIONS: list[Doc] = [
    {
        "id": "q0",
        "title": "T",
        "context": "The Denver Broncos won.",
        "question": "Who won?",
        "answers": {"text": ["Denver Broncos", "The Denver Broncos", "Broncos"], "answer_start": [4, 0, 11]},
    },
    {
        "id": "q1",
        "title": "T",
        "context": "It was gold.",
        "question": "Which colour?",
        "answers": {"text": ["gold"], "answer_start": [7]},
    },
]
REVIEWS: list[Doc] = [
    {"sentence": "a charming journey . ", "label": 1, "idx": 0},
    {"sentence": "dull . ", "label": 0, "idx": 1},
    {"sentence": "a joy . ", "label": 1, "idx": 2},
]
CLAIMS: list[Doc] = [
    {"premise": "He sleeps.", "hypothesis": "He is awake.", "label": 2, "idx": 0},
    {"premise": "He sleeps.", "hypothesis": "He rests.", "label": 0, "idx": 1},
]
REWORDINGS: list[Doc] = [
    {
        "id": 1,
        "sentence1": "She was born in Rome and died there .",
        "sentence2": "Born in Rome , she died there .",
        "label": 1,
    },
    {"id": 2, "sentence1": "A beat B .", "sentence2": "B beat A .", "label": 0},
    {"id": 3, "sentence1": "Two men met in Bonn .", "sentence2": "In Bonn , two men met .", "label": 1},
]
GOALS: list[Doc] = [
    {"goal": "open a jar", "sol1": "twist the lid", "sol2": "paint the lid", "label": 0},
    {"goal": "dry hair", "sol1": "use water", "sol2": "use a towel", "label": 1},
]
PROBLEMS: list[Doc] = [
    {"question": "2 + 3?", "answer": "2 + 3 = <<2+3=5>>5\n#### 5"},
    {"question": "A thousand and one?", "answer": "1000 + 1 = 1,001\n#### 1,001"},
]
TALKS: list[Doc] = [
    {
        "id": "d0",
        "services": ["Restaurants"],
        "conversations": [
            {"from": "human", "value": "I am hungry."},
            {"from": "gpt", "value": "Where are you?"},
            {"from": "human", "value": "In Köln."},
            {"from": "gpt", "value": "Try the Früh."},
            {"from": "human", "value": "Thanks, bye."},
            {"from": "gpt", "value": "Bye."},
        ],
    },
    {"id": "d1", "services": [], "conversations": [{"from": "human", "value": "Hello?"}]},
    {
        "id": "d2",
        "services": [],
        "conversations": [
            {"from": "human", "value": "Hi."},
            {"from": "gpt", "value": "Hello, how can I help?"},
        ],
    },
]
TEXTS: list[Doc] = [
    {"text": "the mill was in", "target": " stone ."},
    {"text": "to burn one needs a", "target": " fire"},
]

# Task key -> (folder, evaluation split, rows, features or None to infer them).
DATASETS: dict[str, tuple[str, str, list[Doc], Features | None]] = {
    "cnn_dailymail": ("abisee__cnn_dailymail/3.0.0", "validation", SUMMARIES, None),
    "wmt14_en_de": ("wmt__wmt14/de-en", "test", PAIRS, None),
    "squad": ("rajpurkar__squad/plain_text", "validation", QUESTIONS, None),
    "sst2": ("nyu-mll__glue/sst2", "validation", REVIEWS, None),
    "mnli": ("nyu-mll__glue/mnli", "validation_matched", CLAIMS, None),
    "paws": ("google-research-datasets__paws/labeled_final", "validation", REWORDINGS, None),
    "piqa": (
        "baber__piqa/default",
        "validation",
        GOALS,
        _labels(("goal", "sol1", "sol2"), ["0", "1"]),
    ),
    "gsm8k": ("openai__gsm8k/main", "test", PROBLEMS, None),
    "dialogue": (
        "google-research-datasets__schema_guided_dstc8/sharegpt_style",
        "validation",
        TALKS,
        None,
    ),
    **LABEL_DATASETS,
    **{
        key: (f"mini__text/{key.removeprefix('text_')}", "validation", TEXTS, None)
        for key in suite("mini_text").tasks
    },
}


def write_split(folder: Path, split: str, rows: list[Doc], features: Features | None = None) -> Path:
    """Write `<folder>/<split>.parquet`."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{split}.parquet"
    parquet.write_table(Dataset.from_list(rows, features=features).data.table, file)
    return file


def write_data(root: Path) -> Path:
    """All datasets, the evaluation rows serving as training rows too."""
    for folder, evaluation, rows, features in DATASETS.values():
        for split in ("train", evaluation):
            write_split(root / folder, split, rows, features)
    return root
