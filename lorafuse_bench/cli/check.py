"""`lorafuse check`: is a fusion method sound?"""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    method: Annotated[
        str,
        typer.Argument(
            help="package.module:Class[:options], importable from here, or a method's name[:options]."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdicts as JSON.")] = False,
) -> None:
    """Run every check on a fusion method; exit code 1 if one fails.

    The checks use random experts on random bases: they say whether a method is sound, not whether it is good. A check
    that does not apply is shown as skipped, with the reason.
    """
    import dataclasses
    import json

    from rich.console import Console
    from rich.table import Table

    from lorafuse_bench.testing.run import CHECKS, check_method, resolve

    found = resolve(method)
    verdicts = check_method(found)
    failed = sum(verdict.status == "failed" for verdict in verdicts)
    if as_json:
        made = {"method": found.label(), "version": found.version, "failed": failed}
        typer.echo(
            json.dumps(made | {"checks": [dataclasses.asdict(verdict) for verdict in verdicts]}, indent=2)
        )
    else:
        table = Table(box=None)
        table.add_column("check", no_wrap=True)
        table.add_column("verdict")
        table.add_column("what it says, or why", overflow="fold")
        for verdict in verdicts:
            table.add_row(verdict.check, verdict.status, verdict.why or CHECKS[verdict.check].says)
        console = Console(highlight=False, markup=False)
        console.print(table)
        passed = sum(verdict.status == "passed" for verdict in verdicts)
        skipped = len(verdicts) - passed - failed
        console.print(f"{found.label()}: {passed} passed, {failed} failed, {skipped} do not apply.")
    if failed:
        raise typer.Exit(1)
