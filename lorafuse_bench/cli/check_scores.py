"""`lorafuse check-scores`: is a method no worse than it was?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorafuse_bench.cli._answers import Answer, answers


@answers
def command(
    results: Annotated[Path, typer.Argument(help="Folder of results that `lorafuse run` wrote.")],
    baseline: Annotated[Path, typer.Option(help="The baseline's file.")],
    method: Annotated[str, typer.Option(help="Label of the method to compare.")] = "",
    margin: Annotated[float, typer.Option(help="Loss that is still no worse, for --update-baseline.")] = 0.05,
    update_baseline: Annotated[
        bool,
        typer.Option(
            "--update-baseline", help="Make these results the baseline; not with changes uncommitted."
        ),
    ] = False,
) -> Answer:
    """Compare each task's items with a baseline's; exit code 1 unless every task is shown to be no worse.

    Of right and wrong answers: Tango's score test that the score fell by the margin or more, and exact McNemar for
    what got worse; of graded answers the paired mean. Both are corrected by Holm over the tasks.
    """
    from dataclasses import asdict

    from lorafuse_bench.leaderboards.boards.regressions import compare_with_baseline, write_baseline
    from lorafuse_bench.tables import Table

    if update_baseline:
        written = str(write_baseline(results, baseline, margin))
        return Answer({"baseline": written}, [f"{written}: the baseline is now {results}."])
    found = compare_with_baseline(results, method, baseline)
    rows = [
        (
            *(one.task, str(one.n), str(one.better), str(one.worse)),
            *(f"{one.difference:+.3f}", f"{one.p_worse:.2g}", f"{one.p_margin:.2g}", one.outcome),
        )
        for one in found
    ]
    headings = ("task", "items", "better", "worse", "difference", "p worse", "p margin", "outcome")
    return Answer(
        [asdict(one) for one in found],
        [Table(headings, rows, words=(0, 7))],
        exit_code=1 if any(one.outcome != "no worse" for one in found) else 0,
    )
