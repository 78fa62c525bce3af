"""A model that knows the right answer to every document of or_mtl, or gives a chosen wrong one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from lorafuse_bench.tasks.suites import task_key

Doc = dict[str, Any]


def _followed(doc: Doc) -> str:
    """A text under all the instructions that the mini world gives."""
    given = dict(zip(doc["instruction_id_list"], doc["kwargs"], strict=True))
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    words += given.get("keywords:existence", {}).get("keywords") or []
    end = given.get("startend:end_checker", {}).get("end_phrase")
    text = " ".join([*words, *([end] if end else [])])
    return f'"{text}"' if "startend:quotation" in given else text


WRITTEN: dict[str, Callable[[Doc], str]] = {
    "ifeval": _followed,
    "bbh": lambda doc: f" {doc['target']}",
    "humaneval": lambda doc: doc["canonical_solution"],
    "mbpp": lambda doc: doc["code"],
    "gsm8k_cot": lambda doc: f" The answer is {doc['answer'].rpartition('#### ')[2]}.",
}
CHOSEN: dict[str, Callable[[Doc], int]] = {
    "mmlu": lambda doc: int(doc["answer"]),
    "gpqa": lambda doc: "ABCD".index(doc["answer"][1]),
}


class Knowing(LM):
    """`spoil` changes what it writes; `shift` moves the option that it chooses."""

    def __init__(self, spoil: Callable[[str], str] = str, shift: int = 0) -> None:
        super().__init__()
        self.spoil, self.shift = spoil, shift
        self.asked: list[Instance] = []

    def generate_until(self, requests: list[Instance]) -> list[str]:
        self.asked += requests
        return [self.spoil(WRITTEN[task_key(r.task_name)](r.doc)) for r in requests]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        self.asked += requests
        return [(-float(r.idx != self._choice(r)), False) for r in requests]

    def _choice(self, request: Instance) -> int:
        return (CHOSEN[task_key(request.task_name)](request.doc) + self.shift) % 4

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise AssertionError("no task asks for this")
