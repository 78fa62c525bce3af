"""The `lorafuse` command.

One file per subcommand, named like it, listed in SUBCOMMANDS; a folder where its own subcommands are long. It defines
either a function `command` (`lorafuse run`) or a typer application `app` with subcommands of its own (`lorafuse zoo
build`). It imports torch, lm-eval and the like inside the function, never at its top: every `lorafuse --help` imports
every file here.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lorafuse_bench import __version__
from lorafuse_bench.uncaught import EXIT_BAD_INPUT, EXIT_INTERRUPTED, one_line, say

SUBCOMMANDS: tuple[str, ...] = (
    "run",
    "leaderboard",
    "compare",
    "samples",
    "train",
    "fit",
    "zoo",
    "methods",
    "check",
    "check-task",
    "check-zoo",
    "check-scores",
    "new-method",
    "export",
    "bench",
    "analyze",
    "plan",
    "doctor",
)


class _OneLineErrors(TyperGroup):
    """Bad input ends in one line and exit code 2; so does an interrupt, with 130 of Ctrl-C and 143 of a scheduler."""

    def make_context(self, *args: Any, **settings: Any) -> Any:
        with _one_line_errors():
            return super().make_context(*args, **settings)

    def invoke(self, ctx: Any) -> Any:
        with _one_line_errors():
            return super().invoke(ctx)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        say("interrupted. What was finished is kept; the same command continues from there.")
        raise typer.Exit(128 + error.args[0] if error.args else EXIT_INTERRUPTED) from error
    except typer.Exit:
        raise
    except Exception as error:
        line = _usage(error) or one_line(error)
        if line is None:
            raise
        say(line)
        raise typer.Exit(EXIT_BAD_INPUT) from error


def _usage(error: Exception) -> str | None:
    """What is wrong with the command line and where its help is; None for any other error."""
    # typer gives its UsageError no public name; that of no arguments at all shows the help.
    if type(error).__name__ == "NoArgsIsHelpError" or not hasattr(error, "format_message"):
        return None
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "lorafuse"
    said = " ".join(error.format_message().split()).rstrip(".")
    return f"{said}{'' if said.endswith('?') else '.'} See `{command} --help`."


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
    _quiet()


def _quiet() -> None:
    """Leave out what packages say to those who write them: their bars, and warnings of what they will rename."""
    # Every long command shows one bar of its own; tqdm reads this when it is first imported.
    os.environ.setdefault("TQDM_DISABLE", "1")
    if not sys.warnoptions:  # python -W asks for them
        warnings.simplefilter("ignore", FutureWarning)


def _add(name: str) -> None:
    module = import_module(f"{__name__}.{name.replace('-', '_')}")
    if hasattr(module, "app"):
        app.add_typer(module.app, name=name)
    else:
        app.command(name)(module.command)


for _name in SUBCOMMANDS:
    _add(_name)


def _stop(number: int, frame: object) -> None:
    """As Ctrl-C: what was answered last is written, workers are let go, and a terminal has its cursor again."""
    raise KeyboardInterrupt(number)


def main() -> None:
    """Entry point of the `lorafuse` script."""
    # Of processes that were launched together one may wait for the others in what no handler interrupts.
    for name in () if "RANK" in os.environ else ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has one of them
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores the other
            signal.signal(number, _stop)
    # Importing makes objects that stay: Python's default, to look for garbage at every 700, takes a sixth of it.
    gc.set_threshold(10_000)
    atexit.register(gc.freeze)  # Python would look for garbage once more at its end, for a second
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may hold what no text does
    app(prog_name="lorafuse")
