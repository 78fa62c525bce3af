"""Checks for authors of methods: one list behind `lorafuse check`, the pytest plugin and our own tests.

`check_method(method)` gives each check's verdict; `parametrize_with_checks([...])` makes tests of them.
"""

from __future__ import annotations

from typing import Any

__all__ = ["check_method", "parametrize_with_checks"]


def __getattr__(name: str) -> Any:
    # Lazily: pytest imports this package for the plugin in it, and torch takes seconds.
    if name in __all__:
        from lorafuse_bench.testing import run

        return getattr(run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
