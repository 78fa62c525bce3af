"""How a prompt that is too long is cut: one rule for training, routers and evaluation.

The beginning and the end stay, the middle goes. A structured prompt opens with its text (an article's lead)
and closes with its heading (`Question: ... Answer:`); losing either changes the task, losing the middle
shortens it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

RULE = "middle"
"""Name of the rule, as zoos and results record it."""

_END = 4
"""One part in so many of what stays comes from the prompt's end."""

LEAST = 16
"""Tokens that a model must hold, prompt and answer together."""

Token = TypeVar("Token")


def answer_room(wanted: int, length: int) -> int:
    """Tokens left for an answer that may take `wanted` of `length`: half of them at most, the prompt has the rest."""
    return min(wanted, length // 2)


def truncate(prompt: Sequence[Token], room: int) -> list[Token]:
    """`prompt` in at most `room` tokens: the last `ceil(room / 4)` of them and as many of the first as fit.

    room: tokens, at least 1. A prompt that fits is returned whole.
    """
    if room < 1:
        raise ValueError(f"room {room} is less than one token")
    if len(prompt) <= room:
        return list(prompt)
    end = -(-room // _END)
    return [*prompt[: room - end], *prompt[len(prompt) - end :]]
