"""Methods with one mistake each, and the check that says what is wrong with it."""

from __future__ import annotations

import broken_costs
import broken_fits
import broken_gates
import broken_merges
import broken_rows
from mistakes import CATCHES, SOUND

__all__ = ["CATCHES", "SOUND"]

MADE_BY = (broken_merges, broken_gates, broken_rows, broken_costs, broken_fits)
"""They fill both in when they are imported."""
