"""What columns may hold: a prompt never shows `None`, and no list or number in the place of a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
import pyarrow as arrow
import pytest
import yaml
from datasets import Dataset

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.tasks.data import load

LEAVES = Path(__file__).resolve().parents[2] / "tasks" / "leaves"
ANSWERS = {"text": ["gold"], "answer_start": [7]}

HOLDS = {
    "sentence": "text",
    "year": "any",
    "label": "value",
    "answers": "nested",
    "translation": "nested",
    "endings": "nested",
    "choices": "nested",
    "kwargs": "partial",
}

BAD: list[tuple[str, list[Any], str]] = [
    ("sentence", ["a", None], "is null in 1 places"),
    ("sentence", [["a", "b"], ["c", "d"]], "single values are due"),
    ("sentence", [{"text": "a"}, {"text": "b"}], "single values are due"),
    ("sentence", [1, 2], "texts are due"),
    ("sentence", [True, False], "texts are due"),
    ("sentence", [b"a", b"b"], "texts are due"),
    ("sentence", [float("nan")] * 2, "is null in 2 places"),
    ("sentence", [None, None], "is null in 2 places"),
    ("year", [1990, None], "is null in 1 places"),
    ("answers", [ANSWERS, {"text": ["gold", None], "answer_start": [7, 8]}], "is null in 1 places"),
    ("answers", [ANSWERS, None], "is null in 1 places"),
    ("answers", ["gold", "red"], "lists or fields are due"),
    ("translation", [{"de": "a", "en": "b"}, {"de": None, "en": "b"}], "is null in 1 places"),
    ("endings", [["a", "b"], ["c", None]], "is null in 1 places"),
    ("endings", [[1, 2], [3, 4]], "texts are due"),
    ("choices", [{"text": ["a"], "label": ["A"]}, {"text": [None], "label": ["A"]}], "is null in 1 places"),
    ("label", [0, None], "is null in 1 places"),
    ("label", [[0], [1]], "single values are due"),
]
GOOD: list[tuple[str, list[Any]]] = [
    ("answers", [ANSWERS, {"text": [], "answer_start": []}]),
    ("label", [0, 1]),
    ("label", ["1", "2"]),
    ("year", [1990, 2026]),
    ("year", [9.99, 0.5]),
    ("year", [["a"], ["b"]]),
    ("kwargs", [[{"n": None, "word": "a"}], [{"n": 3, "word": None}]]),
]


def rows(root: Path, column: str, values: list[Any], split: str) -> Dataset:
    folder = root / "somebody__rows" / "default"
    folder.mkdir(parents=True)
    Dataset(arrow.table({column: arrow.array(values)})).to_parquet(folder / f"{split}.parquet")
    return load({"hub": "somebody/rows", "columns": {column: HOLDS[column]}}, data=str(root))[split]


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize(("column", "values", "said"), BAD)
def test_a_column_that_no_prompt_can_show_is_refused(
    tmp_path: Path, column: str, values: list[Any], said: str, split: str
) -> None:
    with pytest.raises(LorafuseError, match=f"{split}.parquet: column '{column}' .*{said}"):
        rows(tmp_path, column, values, split)


@pytest.mark.parametrize(("column", "values"), GOOD)
def test_what_the_hub_or_a_user_has_is_taken(tmp_path: Path, column: str, values: list[Any]) -> None:
    assert len(rows(tmp_path, column, values, "train")) == 2


class _Loader(yaml.SafeLoader):
    """YAML as lm-eval reads it, without its functions."""


_Loader.add_multi_constructor("!", lambda loader, suffix, node: None)


@pytest.mark.parametrize("path", sorted(LEAVES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_column_that_a_prompt_or_a_target_reads_is_checked(path: Path) -> None:
    config = yaml.load(path.read_text(), _Loader)
    if "process_docs" in config or "dataset_kwargs" not in config:
        pytest.skip("its columns are made by code of its own")
    read: set[str] = set()
    for field in ("doc_to_text", "doc_to_target", "doc_to_choice"):
        text = config.get(field)
        if isinstance(text, str):
            found = jinja2.meta.find_undeclared_variables(jinja2.Environment().parse(text))
            read |= found or ({text} if text.isidentifier() else set())
    assert read <= set(config["dataset_kwargs"]["dataset"]["columns"]), read
