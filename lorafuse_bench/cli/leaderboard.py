"""`lorafuse leaderboard`: from results to a table that can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from lorafuse_bench.leaderboards.board import Board, Leaderboard, Row

WIDE, ROOM_FOR_COSTS = 160, 100

app = typer.Typer(help="Build and show leaderboards from results.", no_args_is_help=True)


@app.command()
def build(
    results: Annotated[list[Path], typer.Argument(help="Folders that `lorafuse run --out` wrote to.")],
    out: Annotated[Path, typer.Option(help="The leaderboard file to write.")] = Path("leaderboard.json"),
    html: Annotated[Path | None, typer.Option(help="Folder for the page, index.html.")] = None,
    allow_limit: Annotated[
        bool, typer.Option("--allow-limit", help="Take results of limited runs; the board then says so.")
    ] = False,
    note: Annotated[str, typer.Option(help="A sentence that opens the captions.")] = "",
) -> None:
    """Build the leaderboard of all results, print it and say where it is.

    Results that do not compare are refused: other data, other documents than the oracle's, altered files,
    limited runs beside full ones. The same results give the same file, byte for byte.
    """
    from lorafuse_bench.leaderboards.board import write_leaderboard
    from lorafuse_bench.leaderboards.builder import build as build_leaderboard
    from lorafuse_bench.leaderboards.page import write_page

    leaderboard = build_leaderboard(results, allow_limit=allow_limit, note=note)
    write_leaderboard(out, leaderboard)
    page = write_page(html, leaderboard) if html is not None else None
    _print(leaderboard)
    typer.echo(f"leaderboard: {out}")
    if page is not None:
        typer.echo(f"page: {page}")


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="A leaderboard.json.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the file's content as JSON.")] = False,
) -> None:
    """Print a leaderboard."""
    from lorafuse_bench.leaderboards.board import read_leaderboard, to_json

    leaderboard = read_leaderboard(file)
    if as_json:
        typer.echo(to_json(leaderboard))
    else:
        _print(leaderboard)


def _print(leaderboard: Leaderboard) -> None:
    """Every board as a table with its caption."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, WIDE)  # a file or a pipe has no edge to fold at
    for board in leaderboard.boards:
        console.print(_table(board, costs=console.width >= ROOM_FOR_COSTS))
        # Text, not markup: captions and labels come from files.
        console.print(Text(board.caption, style="dim"))
        for column in board.columns:
            if not column.counts:
                console.print(Text(f"{column.task} does not count: {column.reason}.", style="dim"))
        for source in dict.fromkeys(row.source for row in board.rows if row.source):
            console.print(Text(f"paper: {source}.", style="dim"))
        console.print()


def _table(board: Board, costs: bool) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    title = Text(f"{board.suite} on {board.zoo}", style="bold")
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", padding=0)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("method", overflow="fold", min_width=11)
    for heading in ("ability", "±", *(column.task.replace("_", "_\n") for column in board.columns)):
        table.add_column(Text(heading), justify="right", no_wrap=True)
    if costs:
        table.add_column("params", justify="right", no_wrap=True)
        table.add_column("eval s", justify="right", no_wrap=True)
    source: str | None = None
    for row in board.rows:
        if row.source != source:
            source = row.source
            table.add_section()
        cells = _cells(board, row) + (_costs(row) if costs else [])
        table.add_row(*(Text(cell, style="dim" if row.source else "") for cell in cells))
    return table


def _cells(board: Board, row: Row) -> list[str]:
    """Rank or role, method, ability, tasks; in brackets the raw value of a task that does not count."""
    from lorafuse_bench.leaderboards import text

    place = {"floor": "floor", "oracle": "ref", "method": str(row.rank or "–")}[row.role]
    cells = ["paper" if row.origin == "reported" else place, row.label]
    if row.ability is None:
        cells += [row.note or "–", ""]
    else:
        cells += [text.number(row.ability.value), text.uncertainty(row.ability).removeprefix("±")]
    for column in board.columns:
        score, kind = text.shown(column, row.tasks[column.task]) if column.task in row.tasks else (None, "")
        value = "–" if score is None else text.number(score.value)
        cells.append({"raw": f"({value})", "difference": f"Δ{value}"}.get(kind, value))
    return cells


def _costs(row: Row) -> list[str]:
    from lorafuse_bench.leaderboards import text

    if row.cost is None:
        return ["–", "–"]
    return [text.amount(row.cost.extra_parameters), text.seconds(row.cost.eval_seconds)]
