"""`lorafuse methods`: what there is, and what each method can be told."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    name: Annotated[str | None, typer.Argument(help="A method, to see its formula and options.")] = None,
) -> None:
    """List the fusion methods, or describe one."""
    import dataclasses
    import inspect

    from rich.console import Console
    from rich.table import Table

    from lorafuse_bench.errors import unknown
    from lorafuse_bench.fusion import registry

    known = registry.methods()
    console = Console(highlight=False)
    if name is None:
        table = Table("method", "family", "needs", "what it is", box=None)
        for key, cls in known.items():
            first = (inspect.getdoc(cls) or "").splitlines()[0]
            table.add_row(key, cls.family, ", ".join(sorted(cls.needs)) or "-", first)
        console.print(table)
        return
    if name not in known:
        raise unknown("method", name, known)
    cls = known[name]
    console.print(f"{name} ({cls.family})\n\n{inspect.getdoc(cls)}\n\nPaper: {cls.paper}", markup=False)
    options = Table("option", "default", "meaning", box=None)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        options.add_row(field.name, str(field.default).lower(), field.metadata["help"])
    console.print(options if options.row_count else "No options.")
    for law, why in cls().laws_broken.items():
        console.print(f"Does not hold: {law}, as {why}.", markup=False)
