"""pytest's side of the checks: `pytest --lorafuse-method package.module:Class` needs no test file.

Loaded by every pytest run of an environment that has this package, so it imports nothing until it is asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "collected.py"
"""The test file that is collected where a method is named."""
SCORES = FILE.with_name("collected_scores.py")
"""The one that is collected where results are named too."""


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
    group.addoption(
        "--lorafuse-results", metavar="DIR", help="results of the methods, to compare with a baseline."
    )
    group.addoption("--lorafuse-baseline", metavar="FILE", help="the baseline's file.")
    group.addoption(
        "--lorafuse-margin", type=float, default=0.05, help="loss that is still no worse, for the next."
    )
    group.addoption(
        "--lorafuse-update-baseline",
        action="store_true",
        help="make the results the baseline first; refused where git has changes that are not committed.",
    )


def pytest_configure(config: Any) -> None:
    """Collect the checks, beside what the command line names and instead of what it does not name."""
    if not config.getoption("lorafuse_method"):
        return
    named = config.args_source is type(config.args_source).ARGS
    files = [str(FILE)]
    if config.getoption("lorafuse_results"):
        files.append(str(SCORES))
        _baseline(config)
    if str(FILE) not in config.args:
        config.args = [*(config.args if named else ()), *files]


def _baseline(config: Any) -> None:
    """A baseline must be named, and is written first where that is asked for."""
    import pytest

    from lorafuse_bench.errors import LorafuseError
    from lorafuse_bench.leaderboards.boards.regressions import write_baseline

    results, baseline = config.getoption("lorafuse_results"), config.getoption("lorafuse_baseline")
    if baseline is None:
        raise pytest.UsageError("--lorafuse-results needs --lorafuse-baseline FILE.")
    if config.getoption("lorafuse_update_baseline"):
        try:
            write_baseline(results, baseline, config.getoption("lorafuse_margin"))
        except LorafuseError as error:
            raise pytest.UsageError(str(error)) from error


def pytest_generate_tests(metafunc: Any) -> None:
    """One test for each method and check."""
    file = Path(metafunc.module.__file__)
    if file not in (FILE, SCORES):
        return
    from lorafuse_bench.errors import LorafuseError
    from lorafuse_bench.testing.run import cases, resolve

    asked = metafunc.config.getoption("lorafuse_method")
    try:
        if file == SCORES:
            metafunc.parametrize("label", [resolve(spec).label() for spec in asked])
        else:
            metafunc.parametrize(("method", "check"), cases(asked))
    except LorafuseError as error:
        import pytest

        raise pytest.UsageError(str(error)) from error
