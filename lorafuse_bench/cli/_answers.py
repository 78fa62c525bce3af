"""What a command answers: a table for people, and with --json the same as data for programs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any

import typer

_AS_JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True)
class Answer:
    """`data`, which JSON can hold, for programs; `shown`, in order, for people: tables and lines of text."""

    data: Any
    shown: Iterable[Any]


def answers(command: Callable[..., Answer]) -> Callable[..., None]:
    """Decorator of a command that returns its answer instead of printing it: gives it the option --json."""

    @wraps(command)
    def answering(*arguments: Any, as_json: bool = False, **options: Any) -> None:
        tell(command(*arguments, **options), as_json)

    signature = inspect.signature(command, eval_str=True)
    option = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_AS_JSON)
    parameters = [*signature.parameters.values(), option]
    answering.__signature__ = signature.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]
    return answering


def tell(answer: Answer, as_json: bool) -> None:
    """Print an answer on standard output."""
    import json

    from lorafuse_bench.tables import console

    if as_json:
        typer.echo(json.dumps(answer.data, indent=1, allow_nan=False))
        return
    screen = console()
    for part in answer.shown:
        if isinstance(part, str):
            typer.echo(part)
        else:
            screen.print(part)
