"""Every mistake is caught by a check that says what is wrong; without the mistake no check fails."""

from __future__ import annotations

import pytest
from broken import CATCHES, SOUND

from lorafuse_bench.fusion.base import FusionMethod
from lorafuse_bench.testing.run import CHECKS, check_method


@pytest.mark.parametrize("what", CATCHES)
def test_a_mistake_is_caught(what: str) -> None:
    cls, check = CATCHES[what]
    verdict = CHECKS[check].verdict(cls())
    assert verdict.status == "failed", f"{check}: {verdict.status} {verdict.why}"
    assert verdict.why and "\n" not in verdict.why


@pytest.mark.parametrize("cls", SOUND)
def test_without_a_mistake_no_check_fails(cls: type[FusionMethod]) -> None:
    assert not [verdict for verdict in check_method(cls()) if verdict.status == "failed"]
