"""The test that the pytest plugin runs for each method and check."""

from __future__ import annotations

from typing import Any


def test_method(method: Any, check: Any) -> None:
    """A method passes a check."""
    check(method)
