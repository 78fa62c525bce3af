"""`lorafuse check-scores`: is a method no worse than it was?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
) -> None:
    """Compare each task's items with a baseline's; exit code 1 unless every task is shown to be no worse.

    Of right and wrong answers: Tango's score test that the score fell by the margin or more, and exact McNemar for
    what got worse; of graded answers the paired mean. Both are corrected by Holm over the tasks.
    """
    from rich.console import Console
    from rich.table import Table

    from lorafuse_bench.leaderboards.regressions import compare_with_baseline, write_baseline

    if update_baseline:
        typer.echo(f"{write_baseline(results, baseline, margin)}: the baseline is now {results}.")
        return
    found = compare_with_baseline(results, method, baseline)
    table = Table(
        "task", "items", "better", "worse", "difference", "p worse", "p margin", "outcome", box=None
    )
    for one in found:
        numbers = (
            one.n,
            one.better,
            one.worse,
            f"{one.difference:+.3f}",
            f"{one.p_worse:.2g}",
            f"{one.p_margin:.2g}",
        )
        table.add_row(one.task, *map(str, numbers), one.outcome)
    Console(highlight=False).print(table)
    if any(one.outcome != "no worse" for one in found):
        raise typer.Exit(1)
