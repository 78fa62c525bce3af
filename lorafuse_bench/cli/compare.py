"""`lorafuse compare`: two methods on the same items."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorafuse_bench.cli._answers import Answer, answers

if TYPE_CHECKING:
    from lorafuse_bench.leaderboards.boards.paired import Comparison, TaskComparison
    from lorafuse_bench.tables import Table


@answers
def command(
    a: Annotated[str, typer.Argument(help="A result file, or with --results a method such as moa.")],
    b: Annotated[str, typer.Argument(help="Another.")],
    results: Annotated[
        Path | None, typer.Option(help="Folder of one suite, zoo and seed, to find methods in.")
    ] = None,
) -> Answer:
    """Paired differences per task, a minus b, with items flipped and p values.

    Both must have been scored on the same documents with the same experts. p is two-sided, from the paired
    standard error; Holm's correction is over the tasks.
    """
    from dataclasses import asdict

    from lorafuse_bench.leaderboards.boards import paired

    paths = [_file(x) if results is None else paired.result_of(results, x) for x in (a, b)]
    found = paired.compare(*paths)
    return Answer(asdict(found), [_table(found)])


def _file(name: str) -> Path:
    from lorafuse_bench.errors import LorafuseError

    if not Path(name).is_file():
        raise LorafuseError(
            f"{name}: no such file. Name result files, or methods of a folder: --results DIR."
        )
    return Path(name)


def _table(found: Comparison) -> Table:
    from lorafuse_bench.tables import Table

    return Table(
        headings=("task", "metric", "n", "A", "B", "A − B", "95%", "p", "Holm", "A wins", "B"),
        rows=[_cells(task) for task in found.tasks],
        title=f"{found.a} minus {found.b}  {found.suite} on {found.zoo}, seed {found.seed}",
        words=(0, 1),
    )


def _cells(task: TaskComparison) -> list[str]:
    from lorafuse_bench.leaderboards.boards.text import number
    from lorafuse_bench.leaderboards.statistics.stats import Z95

    loss = " (loss)" if task.direction == "down" else ""
    half = None if task.se is None else Z95 * task.se
    ends = "–" if half is None else f"{number(task.difference - half)} to {number(task.difference + half)}"
    return [
        task.task,
        task.metric + loss,
        str(task.n),
        *(number(value) for value in (task.a, task.b, task.difference)),
        ends,
        *("–" if p is None else "<.001" if p < 0.001 else f"{p:.3f}" for p in (task.p, task.p_holm)),
        str(task.a_better),
        str(task.b_better),
    ]
