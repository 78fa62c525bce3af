"""`lorafuse analyze`: an analysis by name, as numbers and a picture; its options are those the analysis declares."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    import dataclasses

    from lorafuse_bench.analysis.base import Analysis


class _Analyses(TyperGroup):
    """The registered analyses as subcommands, looked up only when one is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        from lorafuse_bench.analysis import registry

        return list(registry.analyses())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        from lorafuse_bench.analysis import registry

        return _command(registry.ANALYSES.named(cmd_name))


app = typer.Typer(
    cls=_Analyses, help="Look inside a zoo or its results: numbers and a picture.", no_args_is_help=True
)


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    list_all: Annotated[bool, typer.Option("--list", help="List them with their papers.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --list: print JSON.")] = False,
) -> None:
    """Look inside a zoo or its results: numbers and a picture."""
    from lorafuse_bench.analysis import registry
    from lorafuse_bench.cli._answers import Answer, tell
    from lorafuse_bench.tables import Table

    if list_all:
        records = [
            {"analysis": name, "about": cls.summary(), "paper": cls.paper}
            for name, cls in registry.analyses().items()
        ]
        rows = [(r["analysis"], f"{r['about']}\n{r['paper']}") for r in records]
        tell(
            Answer(records, [Table(("analysis", "what it tells, and comes from"), rows, words=(0, 1))]),
            as_json,
        )
        raise typer.Exit
    if context.invoked_subcommand is None:
        raise typer.BadParameter("name an analysis, or --list them.")


def _command(cls: type[Analysis[Any]]) -> Any:
    """A command with the options of an analysis and `--out`."""
    import dataclasses
    import typing

    hints = typing.get_type_hints(cls)
    parameters = [_parameter(field, hints[field.name]) for field in dataclasses.fields(cls)]
    parameters.append(_OUT)

    def command(**given: Any) -> None:
        _run(cls, given.pop("out"), given)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    fields = "\n".join(f"{name}: {field.description}" for name, field in cls.result().model_fields.items())
    command.__doc__ = f"{inspect.getdoc(cls)}\n\nSource: {cls.paper}.\n\n\b\nIts JSON holds\n{fields}"
    alone = typer.Typer(rich_markup_mode=None, add_completion=False)  # formulas are no markup
    alone.command(cls.name)(command)
    return typer.main.get_command(alone)


def _run(cls: type[Analysis[Any]], out: Path | None, given: Mapping[str, Any]) -> None:
    from lorafuse_bench.analysis import registry
    from lorafuse_bench.files import check_writable

    analysis = registry.create(cls.name, given)
    folder = out or analysis.out
    check_writable(folder)
    data, picture = analysis.write(analysis.run(typer.echo), folder)
    typer.echo(f"{data} and {picture.name}")


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_OUT = _keyword(
    "out",
    Annotated[Path | None, typer.Option(help="Where its files go: <name>.json and <name>.png.")],
    None,
)


def _parameter(field: dataclasses.Field[Any], hint: Any) -> inspect.Parameter:
    """A command line's view of an option: an argument where it must be given; lists are words with commas."""
    import dataclasses

    help_, default = field.metadata["help"], field.default
    if default is dataclasses.MISSING:
        return _keyword(field.name, Annotated[hint, typer.Argument(help=help_)], inspect.Parameter.empty)
    if "tuple" in str(hint):
        hint, default = str | None, default and ",".join(map(str, default))
    flag = (f"--{field.name.replace('_', '-')}",) if hint is bool else ()
    return _keyword(field.name, Annotated[hint, typer.Option(*flag, help=help_)], default)
