"""The first place where two JSON values differ, in words short enough for one line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

NOTHING = type("Nothing", (), {"__repr__": lambda self: "nothing"})()
"""Stands where only the other value has a field."""
_LONGEST = 60


@dataclass(frozen=True)
class Difference:
    """Where two values differ (`experts.paws.rank`, or an empty string for the whole), and the two parts."""

    where: str
    mine: Any
    theirs: Any

    def texts(self) -> tuple[str, str]:
        """Both parts, cut so that what differs is seen: never two equal texts."""
        mine, theirs = repr(self.mine), repr(self.theirs)
        shared = _shared(mine, theirs)
        start = 0 if max(len(mine), len(theirs)) <= _LONGEST else max(0, shared - _LONGEST // 4)
        return _cut(mine, start), _cut(theirs, start)


def differences(mine: Any, theirs: Any, where: str = "") -> Iterator[Difference]:
    """Every innermost difference of two JSON values, in order."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in {**mine, **theirs}:
            inner = f"{where}.{key}".lstrip(".")
            yield from differences(mine.get(key, NOTHING), theirs.get(key, NOTHING), inner)
    elif isinstance(mine, list | tuple) and isinstance(theirs, list | tuple):
        for place, (a, b) in enumerate(zip_longest(mine, theirs, fillvalue=NOTHING)):
            yield from differences(a, b, f"{where}.{place}".lstrip("."))
    elif mine != theirs:
        yield Difference(where, mine, theirs)


def first_difference(mine: Any, theirs: Any, where: str = "") -> Difference | None:
    """The first of them; None where the values are equal."""
    return next(differences(mine, theirs, where), None)


def _shared(mine: str, theirs: str) -> int:
    """Length of the common beginning."""
    pairs = enumerate(zip(mine, theirs, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(mine), len(theirs)))


def _cut(text: str, start: int) -> str:
    part = text[start : start + _LONGEST]
    return ("..." if start else "") + part + ("..." if start + _LONGEST < len(text) else "")
