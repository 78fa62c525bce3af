"""The files of this machine that a suite's rows are read from."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lorafuse_bench.tasks.data import HUB, MINI, Source, Splits
from lorafuse_bench.tasks.facts import Suite


def row_files(suite: Suite, source: str) -> set[Path]:
    """Those of all splits: files that its tasks name, and those of the data directory `source`, if it is one."""
    return {path for told in suite.datasets.values() for path in _of_task(told, source) if path.is_file()}


def _of_task(told: Mapping[str, Any], source: str) -> Iterator[Path]:
    options = told["dataset_kwargs"] if isinstance(told["dataset_kwargs"], dict) else {}
    named, given = told["dataset_path"], options.get("dataset")
    for text in _texts(options.get("data_files")):
        yield from map(Path, glob.glob(text))
    if source not in (HUB, MINI) and (isinstance(given, dict) or isinstance(named, str)):
        dataset = Source(**given) if isinstance(given, dict) else Source(str(named), told["dataset_name"])
        yield from Splits(dataset, source).root.glob("*.parquet")


def _texts(said: Any) -> Iterator[str]:
    """The texts in lists and fields, at any depth."""
    if isinstance(said, str):
        yield said
    elif isinstance(said, list | dict):
        for each in said.values() if isinstance(said, dict) else said:
            yield from _texts(each)
