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

Token = TypeVar("Token")


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
