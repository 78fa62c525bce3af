"""The whole list of checks, run on methods: as verdicts, or as tests of pytest's."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import SkipTest

from lorafuse_bench.errors import LorafuseError, unknown
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.base import FusionMethod
from lorafuse_bench.registry import split_options
from lorafuse_bench.testing import batches, costs, files, fits, golden, laws, numbers, places, state
from lorafuse_bench.testing.check import Check, Verdict

CHECKS: dict[str, Check] = {
    found.name: found
    for module in (state, laws, places, numbers, batches, files, golden, costs, fits)
    for found in vars(module).values()
    if isinstance(found, Check)
}
"""Every check by its name, in the order in which they are run."""


def check_method(
    spec: str | FusionMethod, expected_failures: Mapping[str, str] | None = None
) -> list[Verdict]:
    """Every check's verdict on a method, named as for `resolve`.

    `expected_failures {check: reason}` names checks that must fail; LorafuseError for an unknown check or no reason.
    """
    method, expected = resolve(spec), _expected(expected_failures)
    return [one.verdict(method, expected.get(name)) for name, one in CHECKS.items()]


def parametrize_with_checks(
    specs: Sequence[str | FusionMethod], expected_failures: Mapping[str, str] | None = None
) -> Any:
    """A decorator that runs a test function `test(method, check)` for every method and check.

    The function calls `check(method)`, which raises AssertionError where the check fails, and skips the test
    where it does not apply. A check of `expected_failures {check: reason}` must fail.
    """
    import pytest

    return pytest.mark.parametrize(("method", "check"), cases(specs, expected_failures))


def cases(
    specs: Sequence[str | FusionMethod], expected_failures: Mapping[str, str] | None = None
) -> list[Any]:
    """pytest's parameters `(method, check)` for every method and check."""
    import pytest

    expected = _expected(expected_failures)
    return [
        pytest.param(method, Bound(one, expected.get(name)), id=f"{method.label()}-{name}")
        for method in map(resolve, specs)
        for name, one in CHECKS.items()
    ]


class Bound:
    """A check as a test calls it, with the reason for which it is expected to fail."""

    def __init__(self, check: Check, expected: str | None = None) -> None:
        self.check = check
        self.expected = expected

    def __call__(self, method: FusionMethod) -> None:
        verdict = self.check.verdict(method, self.expected)
        if verdict.status == "failed":
            raise AssertionError(f"{self.check.name}: {verdict.why}")
        if verdict.status == "skipped":
            raise SkipTest(verdict.why)
        if verdict.status == "expected":
            import pytest

            pytest.xfail(verdict.why)


def resolve(spec: str | FusionMethod) -> FusionMethod:
    """A method from `name[:options]`, or from `package.module:Class[:options]`, importable from here.

    LorafuseError where there is none, or its definition is not whole.
    """
    if isinstance(spec, FusionMethod):
        return spec
    name, _, tail = spec.partition(":")
    kind, _, options = tail.partition(":")
    if not kind.isidentifier() or "=" in tail.partition(":")[0]:
        return registry.parse(spec)
    if name in registry.methods() and "." not in name:
        return registry.parse(spec)
    cls = _class(name, kind)
    return registry.METHODS.make(cls, split_options(options))


def _class(module: str, name: str) -> type[FusionMethod]:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), name)
    except LorafuseError:
        raise
    except AttributeError:
        raise unknown("class", name, vars(sys.modules[module]), f"of {module}") from None
    except Exception as error:  # a foreign module may raise anything
        raise LorafuseError(
            f"{module} cannot be imported: {type(error).__name__}: {error}. Name package.module:Class."
        ) from error
    return registry.register(found)


def _expected(given: Mapping[str, str] | None) -> Mapping[str, str]:
    for name, reason in (given or {}).items():
        if name not in CHECKS:
            raise unknown("check", name, CHECKS)
        if not reason.strip():
            raise LorafuseError(f"check '{name}' is expected to fail, but no reason is given. Say why.")
    return given or {}
