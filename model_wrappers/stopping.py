"""Where a written answer ends: the same for every backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

Decode = Callable[[Sequence[int]], str]


def cut(text: str, stops: Sequence[str]) -> str:
    """`text` up to the first stop that begins after its first character that is not white space.

    A model may open its answer with an empty line; what stands before the answer does not end it, and
    stays. Empty stops are none.
    """
    begin = len(text) - len(text.lstrip()) + 1
    found = [text.find(stop, begin) for stop in stops if stop]
    return text[: min((end for end in found if end >= 0), default=len(text))]


@dataclass(frozen=True)
class Ending:
    """How a written sequence of tokens becomes an answer.

    It ends before the first token of `end_tokens`; what precedes the last `thought`, a token or a text that
    closes a model's thinking, is no part of it; its text is cut at the first of `stops` that counts.
    """

    decode: Decode
    stops: tuple[str, ...]
    end_tokens: frozenset[int] = frozenset()
    thought: int | str | None = None

    def answer(self, tokens: Sequence[int]) -> str:
        """The answer that `tokens` hold."""
        return cut(self._after_thought(tokens)[0], self.stops)

    def ended(self, tokens: Sequence[int]) -> bool:
        """Whether a stop that counts is among `tokens`: nothing written after them is part of the answer."""
        text, answers = self._after_thought(tokens)
        return answers and cut(text, self.stops) != text

    def ends_now(self, tokens: Sequence[int]) -> bool:
        """`ended`, where the last token may have completed a stop: a look at a few tokens for most."""
        # A token is at least a byte of text.
        longest = max((len(stop.encode()) for stop in self.stops), default=0)
        last = self.decode(tokens[-longest - 1 :])
        return any(stop in last for stop in self.stops if stop) and self.ended(tokens)

    def _after_thought(self, tokens: Sequence[int]) -> tuple[str, bool]:
        """What was written after the thought, all of it where there is none; whether thinking is over."""
        end = next((i for i, token in enumerate(tokens) if token in self.end_tokens), len(tokens))
        tokens = list(tokens[:end])
        if isinstance(self.thought, int) and self.thought in tokens:
            start = len(tokens) - tokens[::-1].index(self.thought)
            return self.decode(tokens[start:]).lstrip(), True
        text = self.decode(tokens)
        if isinstance(self.thought, str) and self.thought in text:
            return text.rpartition(self.thought)[2].lstrip(), True
        return text, self.thought is None


class StopRows(StoppingCriteria):
    """Stops each row of a batch by itself, `prompt` tokens into it; the batch stops when all have.

    To be asked after every token; transformers remembers which rows have stopped.
    """

    def __init__(self, ending: Ending, prompt: int) -> None:
        self.ending = ending
        self.prompt = prompt

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        written = input_ids[:, self.prompt :].tolist()
        return torch.tensor([self.ending.ends_now(row) for row in written], device=input_ids.device)
