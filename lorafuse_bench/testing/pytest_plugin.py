"""pytest's side of the checks: `pytest --lorafuse-method package.module:Class` needs no test file.

Loaded by every pytest run of an environment that has this package, so it imports nothing until it is asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "collected.py"
"""The test file that is collected where a method is named."""


def pytest_addoption(parser: Any) -> None:
    """`--lorafuse-method`."""
    group = parser.getgroup("lorafuse", "LoRA-Fuse Bench")
    group.addoption(
        "--lorafuse-method",
        action="append",
        default=[],
        metavar="METHOD",
        help="check a fusion method: package.module:Class[:options], or its name[:options]; may be repeated.",
    )


def pytest_configure(config: Any) -> None:
    """Collect the checks, beside what the command line names and instead of what it does not name."""
    if not config.getoption("lorafuse_method"):
        return
    named = config.args_source is type(config.args_source).ARGS
    if str(FILE) not in config.args:
        config.args = [*(config.args if named else ()), str(FILE)]


def pytest_generate_tests(metafunc: Any) -> None:
    """One test for each method and check."""
    if Path(metafunc.module.__file__) != FILE:
        return
    from lorafuse_bench.errors import LorafuseError
    from lorafuse_bench.testing.run import cases

    try:
        metafunc.parametrize(("method", "check"), cases(metafunc.config.getoption("lorafuse_method")))
    except LorafuseError as error:
        import pytest

        raise pytest.UsageError(str(error)) from error
