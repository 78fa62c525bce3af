"""`lorafuse methods`: what there is, and what each method can be told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorafuse_bench.cli._answers import Answer, answers

if TYPE_CHECKING:
    from dataclasses import Field


@answers
def command(
    name: Annotated[
        str | None,
        typer.Argument(help="A method, with options if you like, to see its formula and what it takes."),
    ] = None,
) -> Answer:
    """List the fusion methods, or describe one."""
    from lorafuse_bench.api import methods

    if name is not None:
        return _described(name)
    table = methods()
    return Answer(table.records, [table])


def _described(spec: str) -> Answer:
    import dataclasses
    import inspect

    from lorafuse_bench.fusion import registry
    from lorafuse_bench.tables import Table

    method = registry.METHODS.parse(spec)
    cls, name = type(method), method.label()
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    options = [{"option": f.name, "default": _default(f), "meaning": f.metadata["help"]} for f in fields]
    shown = [{**line, "default": str(line["default"]).lower()} for line in options]
    needs, about, broken = sorted(method.needed), inspect.getdoc(cls), method.laws_broken
    head = {"method": name, "family": cls.family, "needs": needs, "paper": cls.paper, "about": about}
    what = f"{cls.family}, needs {', '.join(needs)}" if needs else cls.family
    return Answer(
        {**head, "options": options, "laws_broken": broken},
        [
            f"{name} ({what})\n\n{about}\n\nPaper: {cls.paper}",
            Table.of(shown, words=range(3)) if options else "No options.",
            *(f"Does not hold: {law}, as {why}." for law, why in broken.items()),
        ],
    )


def _default(field: Field[Any]) -> Any:
    """An option's default, None where it must be given."""
    from dataclasses import MISSING

    return None if field.default is MISSING else field.default
