"""What analyses of a zoo measured, read from the files that `lorafuse analyze` wrote."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import read_json
from lorafuse_bench.leaderboards.claims import Reading
from lorafuse_bench.leaderboards.measures import Array

SCHEMA = "lorafuse.analysis."


@dataclass(frozen=True)
class Analysed:
    """The results of analyses, by analysis and zoo."""

    results: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, folders: Iterable[Path]) -> Analysed:
        """All results below the folders; LorafuseError where two answer the same question of one zoo."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        files: dict[tuple[str, str], Path] = {}
        for path in (file for folder in folders for file in _files(folder)):
            content = read_json(path, "Run `lorafuse analyze` again.")
            if not isinstance(content, dict) or not str(content.get("schema")).startswith(SCHEMA):
                raise LorafuseError(
                    f"{path} is not what `lorafuse analyze` writes. Name folders of its results alone."
                )
            at = (str(content["schema"]).removeprefix(SCHEMA).split("/")[0].replace("_", "-"), _zoo(content))
            if at in found:
                raise LorafuseError(
                    f"two results of the analysis {at[0]} on the zoo {at[1]}: {files[at]} and {path}. Keep one."
                )
            found[at], files[at] = content, path
        return cls(found)

    @property
    def zoos(self) -> set[str]:
        return {zoo for _, zoo in self.results}

    def pair(self, analysis: str, reading: Reading, zoo: str) -> tuple[Array, Array, tuple[str, ...]] | None:
        """Both sides' values and what they are of, in one order; None where the zoo's result lacks a side."""
        result = self.results.get((analysis, zoo))
        left = _table(result, reading.left)
        right = _table(result, reading.right) if reading.right else dict.fromkeys(left or (), 0.0)
        if not left or not right or set(left) != set(right) or len(left) < 2:
            return None
        names = tuple(sorted(left))
        return np.array([left[n] for n in names]), np.array([right[n] for n in names]), names


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise LorafuseError(
            f"{folder} is not a folder. Name one that `lorafuse analyze NAME --out` wrote to."
        )
    return sorted(path for path in folder.rglob("*.json") if path.is_file())


def _zoo(content: dict[str, Any]) -> str:
    return str(content.get("zoo", ""))


def _table(content: Any, keys: tuple[str, ...]) -> dict[str, float] | None:
    """The table of numbers by name that `keys` lead to."""
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    if not isinstance(content, dict):
        return None
    numbers = [isinstance(value, int | float) and isfinite(value) for value in content.values()]
    return {name: float(value) for name, value in content.items()} if all(numbers) else None
