"""The one exception that users see as a single line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LorafuseError(Exception):
    """Bad input: one line saying what is wrong, where, and what to do about it.

    The command line prints it without a traceback and exits with code 2.
    """


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
