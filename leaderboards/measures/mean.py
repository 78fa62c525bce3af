"""The mean over items."""

from __future__ import annotations

import numpy as np

from lorafuse_bench.leaderboards.measures.measure import (
    HIGHEST,
    LOSSES,
    TOLERANCE,
    Array,
    Measure,
    Reading,
    itself,
    register,
)


def out_of_range(values: Array, unit: str) -> str | None:
    """A loss is -log p, and a fraction lies between 0 and 1."""
    bounded = unit in LOSSES or unit in HIGHEST
    highest = HIGHEST.get(unit, np.inf) + TOLERANCE
    worst = [v for v in (values.min(), values.max()) if v < -TOLERANCE or v > highest]
    return f"{worst[0]:g} is no {unit}" if bounded and worst else None


MEAN = register(Measure("mean", 1, "mean", itself, itself, out_of_range, {"mean": Reading()}))
"""Items: a score each."""
