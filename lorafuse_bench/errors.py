"""The one exception that users see as a single line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class LorafuseError(Exception):
    """Bad input: one line saying what is wrong, where, and what to do about it; several faults are a line each.

    The command line prints it without a traceback and exits with code 2. What a terminal obeys or cannot show, in a
    name out of a damaged file, is escaped.
    """

    def __str__(self) -> str:
        return "\n".join(shown(str(line)) for line in self.args)


def shown(text: str) -> str:
    """A line as a terminal may show it: what it obeys, or cannot show, is escaped."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


_PLAIN = {"extra_forbidden": "there is no such key"}
"""What pydantic says in its own words, by its name for it."""


def first_problem(error: ValidationError) -> str:
    """`field: what is wrong with it` of the first problem that pydantic found."""
    first = error.errors()[0]
    message = _PLAIN.get(first["type"], first["msg"].removeprefix("Value error, "))
    return f"{'.'.join(map(str, first['loc'])) or 'file'}: {message}"


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`" Did you mean 'svd'?"` when a choice is close to `word`, else an empty string."""
    close = difflib.get_close_matches(word, sorted(choices), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""


def unknown(kind: str, word: str, choices: Iterable[str], where: str = "") -> LorafuseError:
    """The error for a name that is not among `choices`; `where`, such as "of method 'svd'", follows the name."""
    listed = sorted(choices)
    return LorafuseError(
        f"unknown {kind} '{word}'{where and f' {where}'}.{did_you_mean(word, listed)} "
        f"Known: {', '.join(listed) or 'none'}."
    )
