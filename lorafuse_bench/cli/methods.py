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
    from rich.markup import escape
    from rich.table import Table

    from lorafuse_bench.fusion import registry

    known = registry.methods()
    console = Console(highlight=False)
    if name is None:
        table = Table("method", "family", "needs", box=None)
        table.add_column("what it is, costs, and comes from", overflow="fold")
        for key, cls in known.items():
            about = f"{cls.summary()}\nCost: {cls.cost()}.\n{cls.paper}"
            table.add_row(key, cls.family, ", ".join(sorted(cls.needs)) or "-", escape(about))
        console.print(table)
        return
    cls = registry.METHODS.named(name)
    needs = f", needs {', '.join(sorted(cls.needs))}" if cls.needs else ""
    about = f"{name} ({cls.family}{needs})\n\n{inspect.getdoc(cls)}\n\nPaper: {cls.paper}"
    console.print(about, markup=False, soft_wrap=True)
    options = Table("option", "default", "meaning", box=None)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        options.add_row(field.name, str(field.default).lower(), field.metadata["help"])
    console.print(options if options.row_count else "No options.")
    for law, why in cls().laws_broken.items():
        console.print(f"Does not hold: {law}, as {why}.", markup=False, soft_wrap=True)
