"""What a command answers: a table for people, and with --json the same as data for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorafuse_bench.cli._signatures import keyword, with_options

if TYPE_CHECKING:
    from lorafuse_bench.hub import Upload

_AS_JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True)
class Answer:
    """`data`, which JSON can hold, for programs; `shown`, in order, for people: tables and lines of text."""

    data: Any
    shown: Iterable[Any]
    exit_code: int = 0


def counted(number: int, noun: str) -> str:
    """`1 expert`, `3 experts`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def answers(command: Callable[..., Answer]) -> Callable[..., None]:
    """Decorator of a command that returns its answer instead of printing it: gives it the option --json."""

    def answering(*, as_json: bool = False, **options: Any) -> None:
        tell(command(**options), as_json)

    return with_options(command, answering, keyword("as_json", _AS_JSON, False))


def tell(answer: Answer, as_json: bool) -> None:
    """Print an answer on standard output, and end the command where its exit code is not 0."""
    import json

    from lorafuse_bench.leaderboards.boards.text import printable
    from lorafuse_bench.tables import console

    screen = console()
    for part in [json.dumps(answer.data, indent=1, allow_nan=False)] if as_json else answer.shown:
        if isinstance(part, str):
            typer.echo(printable(part))
        else:
            screen.print(part)
    if answer.exit_code:
        raise typer.Exit(answer.exit_code)


def uploaded(repo: str, files: Sequence[Upload], address: str | None) -> Answer:
    """What was put on the hub at `address`, or would be, where that is None."""
    from lorafuse_bench.tables import Table

    records = [{"file": file.name, "bytes": file.size} for file in files]
    done = (
        f"published: {address}"
        if address
        else f"dry run: {counted(len(files), 'file')} for {repo}. Add --yes to upload them."
    )
    return Answer({"repo": repo, "files": records, "published": address}, [Table.of(records), done])
