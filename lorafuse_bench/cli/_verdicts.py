"""Verdicts of checks as a command's answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lorafuse_bench.cli._answers import Answer

if TYPE_CHECKING:
    from lorafuse_bench.testing.check import Verdict


def answer(of: Mapping[str, Any], verdicts: Sequence[Verdict], says: Mapping[str, str]) -> Answer:
    """The verdicts; exit code 1 if one is failed. `says`: what a check says, shown where it passed."""
    from lorafuse_bench.tables import Table

    count = Counter(verdict.status for verdict in verdicts)
    failed, others = count["failed"], len(verdicts) - count["passed"] - count["failed"]
    rows = [(v.check, v.status, v.why or says.get(v.check, "")) for v in verdicts]
    told = f"{count['passed']} passed, {failed} failed, {others} do not apply."
    return Answer(
        {**of, "failed": failed, "checks": [asdict(verdict) for verdict in verdicts]},
        [
            Table(("check", "verdict", "what it says, or why"), rows, words=range(3)),
            f"{next(iter(of.values()))}: {told}",
        ],
        exit_code=1 if failed else 0,
    )
