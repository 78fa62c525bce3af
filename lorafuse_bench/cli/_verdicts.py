"""How verdicts are shown: a table, or JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from lorafuse_bench.testing.check import Verdict


def show(of: Mapping[str, Any], verdicts: Sequence[Verdict], as_json: bool, says: Mapping[str, str]) -> None:
    """Print the verdicts; exit code 1 if one is failed. `says`: what a check says, shown where it passed."""
    import dataclasses
    import json

    from rich.console import Console
    from rich.table import Table

    failed = sum(verdict.status == "failed" for verdict in verdicts)
    if as_json:
        rows = [dataclasses.asdict(verdict) for verdict in verdicts]
        typer.echo(json.dumps({**of, "failed": failed, "checks": rows}, indent=2))
    else:
        table = Table(box=None)
        table.add_column("check", no_wrap=True)
        table.add_column("verdict")
        table.add_column("what it says, or why", overflow="fold")
        for verdict in verdicts:
            table.add_row(verdict.check, verdict.status, verdict.why or says.get(verdict.check, ""))
        console = Console(highlight=False, markup=False)
        console.print(table)
        passed = sum(verdict.status == "passed" for verdict in verdicts)
        others = len(verdicts) - passed - failed
        console.print(f"{next(iter(of.values()))}: {passed} passed, {failed} failed, {others} do not apply.")
    if failed:
        raise typer.Exit(1)
