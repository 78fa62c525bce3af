"""Which numbers settings and options may be: said once, checked where they are given and where they are used."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from lorafuse_bench.errors import LorafuseError

MAX_SEED = 2**32 - 1
"""The largest seed that numpy's generators take."""


@dataclass(frozen=True)
class Limit:
    """Numbers that a setting may be."""

    low: float
    high: float
    words: str

    def allows(self, value: float) -> bool:
        """Whether the value lies within; NaN never does."""
        return self.low <= value <= self.high


POSITIVE = Limit(sys.float_info.min, sys.float_info.max, "a finite number above 0")
NOT_NEGATIVE = Limit(0, sys.float_info.max, "a finite number, 0 or above")
COUNT = Limit(1, 2**31 - 1, "a whole number from 1 to 2,147,483,647")
SHARE = Limit(0, 1, "between 0 and 1")
PART = Limit(0, 1 - 2**-24, "at least 0 and below 1")
LENGTH = Limit(8, 2**31 - 1, "a whole number of at least 8")
SEED = Limit(0, MAX_SEED, "a whole number from 0 to 4,294,967,295")


def portion(rows: int, count: int) -> int:
    """Rows in each of `count` equal portions of a batch of `rows`; LorafuseError where it does not divide."""
    if rows % count:
        raise LorafuseError(
            f"a batch of {rows} rows does not divide into {count} portions."
            " Change the batch size or the accumulation."
        )
    return rows // count
