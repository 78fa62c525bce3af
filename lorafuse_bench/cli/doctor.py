"""`lorafuse doctor`: what this machine has for a run, and what to do about what it has not."""

from __future__ import annotations

from lorafuse_bench.cli._answers import Answer, answers


@answers
def command() -> Answer:
    """Look at versions, the lm_eval plugin, zoos, GPU, threads, disk and hub; exit code 1 if something is wrong."""
    from dataclasses import asdict

    from lorafuse_bench.doctor import examine
    from lorafuse_bench.tables import Table

    records = [asdict(finding) for finding in examine()]
    bad, look = (sum(record["state"] == state for record in records) for state in ("bad", "look"))
    counted = f"{bad} to fix, {look} to note." if bad or look else "Nothing to fix."
    return Answer(records, [Table.of(records, words=range(4)), counted], exit_code=1 if bad else 0)
