"""What a check is, and what it can say of a method."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion.base import FusionMethod, Law
from lorafuse_bench.testing.subject import DoesNotApplyError, Subject

Status = Literal["passed", "failed", "skipped", "expected"]


@dataclass(frozen=True)
class Verdict:
    """What one check said of one method; `why` it failed, was skipped or was expected to fail."""

    check: str
    status: Status
    why: str = ""


@dataclass(frozen=True)
class Check:
    """One small named check: `says` what holds; `run` raises AssertionError where it does not."""

    name: str
    says: str
    run: Callable[[Any], None]

    def verdict(self, method: FusionMethod, expected: str | None = None) -> Verdict:
        """What the check says; a failure that is `expected`, with a reason, must come about."""
        found = self.verdict_on(Subject(method))
        if expected is None:
            return found
        if found.status == "failed":
            return Verdict(self.name, "expected", expected)
        return Verdict(self.name, "failed", f"it was expected to fail ({expected}), and {found.status}")

    def verdict_on(self, subject: Any) -> Verdict:
        """What the check says of what it is run on."""
        try:
            self.run(subject)
        except DoesNotApplyError as reason:
            return Verdict(self.name, "skipped", str(reason))
        except (AssertionError, LorafuseError) as error:
            return Verdict(self.name, "failed", str(error))
        except Exception as error:  # what is under check may raise anything
            return Verdict(self.name, "failed", f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
        return Verdict(self.name, "passed")


HOLDS, FAILS = 2e-3, 1e-2
"""A law holds where the distributions differ by less than the first, in nats, and fails above the second."""


def check(function: Callable[[Subject], None]) -> Check:
    """Decorator: a check of the function's name, which says its docstring's first line."""
    return Check(function.__name__, (function.__doc__ or "").partition("\n")[0], function)


def law(promised: Law) -> Callable[[Callable[[Subject], float]], Check]:
    """Decorator: a check of a law that methods may declare broken; the function measures how far from holding it is.

    A method that declares it broken is skipped with its reason; where the law holds all the same, that is a failure.
    """

    def decorate(measure: Callable[[Subject], float]) -> Check:
        @functools.wraps(measure)
        def run(subject: Subject) -> None:
            why = subject.method.laws_broken.get(promised)
            distance = measure(subject)
            if why is None:
                assert distance < HOLDS, (
                    f"it differs by {distance:.2g}, and does not declare '{promised}' broken"
                )
            else:
                assert distance > FAILS, f"it declares '{promised}' broken ({why}), but it holds"
                raise DoesNotApplyError(f"declared: {why}")

        return check(run)

    return decorate
