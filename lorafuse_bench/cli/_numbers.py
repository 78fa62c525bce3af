"""Numbers that options take: a callback each, where a minimum and a maximum do not say it."""

from __future__ import annotations

import math

import typer

MAX_SEED = 2**32 - 1
"""What numpy and torch both take."""


def above_zero(value: float | None) -> float | None:
    """A finite number above 0; for a learning rate, LoRA's alpha, passes over the rows."""
    if value is not None and not (math.isfinite(value) and value > 0):
        raise typer.BadParameter(f"{value} is not a finite number above 0.")
    return value


def share(value: float) -> float:
    """A number from 0 up to, and not including, 1; for dropout."""
    if not 0 <= value < 1:
        raise typer.BadParameter(f"{value} is not from 0 to below 1.")
    return value
