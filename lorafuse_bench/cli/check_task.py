"""`lorafuse check-task`: is a task, or a suite, sound?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorafuse_bench.cli._answers import Answer, answers


@answers
def command(
    path: Annotated[Path, typer.Argument(help="YAML file of a task or a suite.")],
    data: Annotated[
        str | None, typer.Option(help="Where its rows come from: hub, mini, or a directory.")
    ] = None,
) -> Answer:
    """Read a task's rows and prompts: columns, rendering, metric, answers, leaks, overlap of train and test."""
    from lorafuse_bench.cli._verdicts import answer
    from lorafuse_bench.testing.brought import check_task

    return answer({"task": str(path)}, check_task(path, data), {})
