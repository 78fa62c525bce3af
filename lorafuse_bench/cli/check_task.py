"""`lorafuse check-task`: is a task, or a suite, sound?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    path: Annotated[Path, typer.Argument(help="YAML file of a task or a suite.")],
    data: Annotated[
        str | None, typer.Option(help="Where its rows come from: hub, mini, or a directory.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdicts as JSON.")] = False,
) -> None:
    """Read a task's rows and prompts: columns, rendering, metric, answers, leaks, overlap of train and test."""
    from lorafuse_bench.cli._verdicts import show
    from lorafuse_bench.testing.brought import check_task

    show({"task": str(path)}, check_task(path, data), as_json, {})
