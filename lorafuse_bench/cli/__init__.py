"""The `lorafuse` command.

One file per subcommand, named like it, listed in SUBCOMMANDS. The file defines either a function
`command` (`lorafuse run`) or a typer application `app` with subcommands of its own (`lorafuse zoo build`).
It imports torch, lm-eval and the like inside the function, never at its top: every `lorafuse --help`
imports every file here.
"""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lorafuse_bench import __version__
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.uncaught import EXIT_BAD_INPUT, EXIT_INTERRUPTED, say

SUBCOMMANDS: tuple[str, ...] = (
    "run",
    "leaderboard",
    "compare",
    "samples",
    "train",
    "zoo",
    "methods",
    "export",
    "bench",
    "analyze",
)


class _OneLineErrors(TyperGroup):
    """Bad input ends in one line and exit code 2, Ctrl-C in one line and exit code 130."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except LorafuseError as error:
            say(error)
            raise typer.Exit(EXIT_BAD_INPUT) from error
        except KeyboardInterrupt as error:
            say("interrupted. What was finished is kept; the same command continues from there.")
            raise typer.Exit(EXIT_INTERRUPTED) from error


app = typer.Typer(
    name="lorafuse",
    help="Merge, route, ensemble or train an adapter: every way to one model of N LoRA experts, measured.",
    cls=_OneLineErrors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a bug's traceback stays Python's own, without local variables
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"lorafuse-bench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options that come before the subcommand."""


def _add(name: str) -> None:
    module = import_module(f"{__name__}.{name}")
    if hasattr(module, "app"):
        app.add_typer(module.app, name=name)
    else:
        app.command(name)(module.command)


for _name in SUBCOMMANDS:
    _add(_name)


def main() -> None:
    """Entry point of the `lorafuse` script."""
    app(prog_name="lorafuse")
