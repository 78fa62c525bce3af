"""JSON Schema of the files on disk, generated from the models; a test holds them fresh.

`lorafuse leaderboard schema` writes them again.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from pydantic import BaseModel

from lorafuse_bench.files import write_text
from lorafuse_bench.leaderboards.boards.board import Leaderboard
from lorafuse_bench.leaderboards.results.schema import Items, Result

MODELS: dict[str, type[BaseModel]] = {
    "result.v3.schema.json": Result,
    "items.v1.schema.json": Items,
    "leaderboard.v1.schema.json": Leaderboard,
}


def generate() -> dict[str, str]:
    """File name to JSON Schema (draft 2020-12) of each model."""
    found = {}
    for name, model in MODELS.items():
        schema = model.model_json_schema(by_alias=True, mode="serialization")
        content = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
        found[name] = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    return found


def checked_in() -> dict[str, str]:
    """File name to the content that the package carries."""
    return {name: (files(__name__) / name).read_text() for name in MODELS}


def write(folder: Path) -> list[Path]:
    """Write all schemas into a folder."""
    for name, content in generate().items():
        write_text(folder / name, content)
    return [folder / name for name in MODELS]
