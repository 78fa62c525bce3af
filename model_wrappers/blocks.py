"""Answers on disk while a cell runs, so that an evaluation that was killed goes on from its last block.

A model answers in batches, and the requests alone decide which and in what order. Batches whose answers are known are
passed over, the others are what they would have been: every number is that of an evaluation that nothing stopped.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import read_bytes, write_bytes

SECONDS = 2.0
"""What a block takes at least: so much, and a batch, is lost at most."""
_SUFFIX = ".block"


class Blocks:
    """The answers of one evaluation. A block is a file of those that were finished since the block before.

    folder: of this evaluation alone, with all that decides its scores in its name; None keeps nothing.
    A file that cannot be read is left out, and its answers are computed again.
    """

    def __init__(self, folder: Path | None = None, say: Callable[[str], object] = lambda text: None) -> None:
        self.folder, self.say = folder, say
        self.seconds = 0.0
        """What the answers that were taken took to compute."""
        self._seconds: dict[str, float] = {}
        self._known: dict[str, dict[int, Any]] = {}
        self._random: dict[tuple[str, int], list[str]] = {}
        self._new: dict[str, dict[int, Any]] = {}
        self._number = 0
        for path in sorted(folder.glob(f"*{_SUFFIX}")) if folder else ():
            self._number = int(path.stem) + 1 if path.stem.isdecimal() else self._number
            self._read(path)
        self._generators = self._drawn = _generators()
        self.begin()

    def begin(self) -> None:
        """What a block took counts from now on."""
        self._since = time.monotonic()

    def __enter__(self) -> Blocks:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Where the evaluation is left by an exception, what it answered last is kept too."""
        if kind is not None:
            with suppress(LorafuseError):  # the exception says more
                self._write()

    def call(self, what: str, asked: Iterable[object]) -> Answers:
        """The answers, called `what`, to requests made together; `asked` is all that they depend on, in order."""
        name = ""
        if self.folder:
            told = hashlib.sha256(what.encode())
            for each in asked:
                told.update(repr(each).encode())
            name = told.hexdigest()
        known = self._known.pop(name, {})
        self.seconds += self._seconds.pop(name, 0.0)
        if known:
            self.say(f"{len(known):,} {what} of an earlier run are kept")
        return Answers(self, name, known)

    def add(self, name: str, answers: Mapping[int, Any]) -> None:
        """Keep the answers of a batch; LorafuseError where a block is due and cannot be written."""
        if self.folder and answers:
            self._new.setdefault(name, {}).update(answers)
            self._drawn = _generators()  # an interrupt within the next batch leaves them further on
            if time.monotonic() - self._since >= SECONDS:
                self._write()

    def restore(self, name: str, position: int) -> None:
        """Draw on as after the block that this answer is of, where it was drawn."""
        if state := self._random.get((name, position)):
            own, *others = [torch.frombuffer(bytearray.fromhex(each), dtype=torch.uint8) for each in state]
            torch.set_rng_state(own)
            if others:
                torch.cuda.set_rng_state_all(others)
            self._generators = state

    def _read(self, path: Path) -> None:
        with suppress(LorafuseError, ValueError):
            digest, _, content = read_bytes(path, "").partition(b"\n")
            if _digest(content) != digest:
                return
            block = json.loads(content)
            total = sum(map(len, block["answers"].values()))
            for name, answers in block["answers"].items():
                share = block["seconds"] * len(answers) / total
                self._seconds[name] = self._seconds.get(name, 0.0) + share
                self._known.setdefault(name, {}).update((position, answer) for position, answer in answers)
                self._random.update({(name, position): block["random"] for position, _ in answers})

    def _write(self) -> None:
        if not self.folder or not self._new:
            return
        now, generators = time.monotonic(), self._drawn
        block = {
            "answers": {name: list(answers.items()) for name, answers in self._new.items()},
            "seconds": now - self._since,
            "random": generators if generators != self._generators else None,
        }
        content = json.dumps(block).encode()
        write_bytes(self.folder / f"{self._number:06}{_SUFFIX}", _digest(content) + b"\n" + content)
        self._number += 1
        self._new, self._since, self._generators = {}, now, generators


class Answers:
    """The answers to the requests of one call, by their position in it."""

    def __init__(self, blocks: Blocks, name: str, known: Mapping[int, Any]) -> None:
        self._blocks, self._name = blocks, name
        self._answers = dict(known)

    def __getitem__(self, position: int) -> Any:
        return self._answers[position]

    def __contains__(self, position: int) -> bool:
        return position in self._answers

    def __len__(self) -> int:
        return len(self._answers)

    def hold(self, batch: Sequence[int]) -> bool:
        """Whether a whole batch is answered; then chance goes on as after it."""
        if not all(position in self._answers for position in batch):
            return False
        self._blocks.restore(self._name, batch[-1])
        return True

    def add(self, answers: Mapping[int, Any]) -> None:
        """What a batch gave, as JSON has it."""
        self._answers.update(answers)
        self._blocks.add(self._name, answers)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _generators() -> list[str]:
    """Where chance stands: torch's generators, in hexadecimal."""
    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else ())]
    return [state.numpy().tobytes().hex() for state in states]
