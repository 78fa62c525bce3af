"""Measures: what the items of a metric are and how a value is made of them, each by its name in a file of its own.

An item is one number, or a row of `width` numbers; a metric's value is a function of the items' sums. A result names
the measure of each of its metrics. In this folder a file that registers one is all it takes; a package names its
module under the entry-point group `lorafuse.measures`.
"""

from lorafuse_bench.leaderboards.measures.measure import (
    ENTRY_POINTS,
    HIGHEST,
    LOSSES,
    TOLERANCE,
    Array,
    Kind,
    Measure,
    Reading,
    as_array,
    fitting,
    itself,
    measures,
    named,
    reader,
    register,
)

__all__ = [
    "ENTRY_POINTS",
    "HIGHEST",
    "LOSSES",
    "TOLERANCE",
    "Array",
    "Kind",
    "Measure",
    "Reading",
    "as_array",
    "fitting",
    "itself",
    "measures",
    "named",
    "reader",
    "register",
]
