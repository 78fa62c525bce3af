"""Finished answers on disk, so that work done before an engine died is not done again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import write_text
from lorafuse_bench.model_wrappers.engine import Answer, Ask


class Kept:
    """Answers by everything that they depend on: `identity` (method, zoo, base, type, engine) and the request.

    With a `path` every answer is appended to that file as a line of JSON when it comes, and those that the
    file holds are known from the start; a line cut short by a crash is passed over. Sampled answers are
    never kept: asking again must sample again.
    """

    def __init__(self, identity: Mapping[str, Any], path: Path | None = None) -> None:
        self.identity = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self.path = path
        self._answers: dict[str, Answer] = {}
        if path is not None and path.exists():
            self._answers = _read(path)

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, ask: Ask) -> Answer | None:
        """The answer to a request that was finished before."""
        return self._answers.get(self._key(ask))

    def add(self, ask: Ask, answer: Answer) -> None:
        """Keep an answer."""
        if ask.sampling().get("temperature", 0.0) > 0:
            return
        key = self._key(ask)
        self._answers[key] = answer
        if self.path is not None:
            try:
                with self.path.open("a") as file:
                    file.write(_line(key, answer))
            except OSError as error:
                raise LorafuseError(
                    f"cannot write keep={self.path}: {error.strerror}. Choose a file you can write to."
                ) from error

    def save(self, path: Path) -> Path:
        """Write all answers, unless they are in a file already; the file that has them."""
        if self.path is None:
            write_text(path, "".join(_line(*item) for item in self._answers.items()))
            self.path = path
        return self.path

    def _key(self, ask: Ask) -> str:
        parts = [self.identity, ask.prompt, ask.adapter, ask.scored, dict(ask.settings)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _line(key: str, answer: Answer) -> str:
    return json.dumps({"key": key, **dataclasses.asdict(answer)}) + "\n"


def _read(path: Path) -> dict[str, Answer]:
    answers = {}
    try:
        for line in path.read_text().splitlines():
            try:
                row = json.loads(line)
                key = row.pop("key")
                scores = [(value, rank) for value, rank in row.pop("scores")]
                answers[key] = Answer(**row, scores=scores)
            except (ValueError, TypeError, KeyError, AttributeError):
                continue
    except (OSError, UnicodeDecodeError) as error:
        raise LorafuseError(f"keep={path} cannot be read ({error}). Name another file.") from error
    return answers
