"""Exact match of the final number of a worked solution (Cobbe et al., 2021)."""

from __future__ import annotations

import re
from decimal import Decimal

from lorafuse_bench.tasks.docs import Doc

# A minus after a digit is a subtraction, not a sign.
_NUMBER = re.compile(r"(?:(?<!\d)-)?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")


def final_number(text: str) -> Decimal | None:
    """The first number after the last `####`, else the last number in the text, else None.

    Commas and dollar signs are dropped and numbers compared by value, so `1,000.00` is `1000`.
    """
    _, mark, tail = text.rpartition("####")
    found = _NUMBER.findall(tail)
    if not found:
        return None
    return Decimal((found[0] if mark else found[-1]).replace(",", "").replace("$", ""))


def exact_match(prediction: str, reference: str) -> float:
    """1.0 if both end in the same number; a text without a number never matches."""
    found = final_number(prediction)
    return float(found is not None and found == final_number(reference))


def process_solution(doc: Doc, results: list[str]) -> dict[str, float]:
    """Items of gsm8k."""
    value = exact_match(results[0], doc["answer"])
    return {"exact_match": value, "score": value}
