"""Boards as tables on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from lorafuse_bench.leaderboards.board import Board, Leaderboard, Row

WIDE, ROOM_FOR_COSTS = 160, 100


def console() -> Console:
    """The terminal; a file or a pipe has no edge to fold at."""
    from rich.console import Console

    found = Console(highlight=False)
    if not found.is_terminal:
        found.width = max(found.width, WIDE)
    return found


def print_boards(leaderboard: Leaderboard) -> None:
    """Every board as a table with its caption, on the terminal."""
    from rich.text import Text

    from lorafuse_bench.leaderboards import text

    screen = console()
    for board in leaderboard.boards:
        screen.print(_table(board, costs=screen.width >= ROOM_FOR_COSTS))
        # Text, not markup: captions and labels come from files.
        screen.print(Text(text.printable(board.caption), style="dim"))
        for column in board.columns:
            if column.reason:
                screen.print(Text(f"{column.task} does not count: {column.reason}.", style="dim"))
        for source, name in _papers(board).items():
            screen.print(Text(f"{name}: {source}.", style="dim"))
        screen.print()


def _table(board: Board, costs: bool) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    title = Text(f"{board.suite} on {board.zoo}", style="bold")
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", padding=0)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("method", overflow="fold", min_width=11)
    means = ("overall", "delta", "±") if board.oblivion else ("ability", "±")
    for heading in (*means, *(column.task.replace("_", "_\n") for column in board.columns)):
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


def _papers(board: Board) -> dict[str, str]:
    """Source of reported rows -> how the table calls it; numbered where there are several."""
    sources = list(dict.fromkeys(row.source for row in board.rows if row.source))
    return {s: "paper" if len(sources) == 1 else f"paper {i}" for i, s in enumerate(sources, start=1)}


def _cells(board: Board, row: Row) -> list[str]:
    """Rank, role or paper, method, and the scores."""
    from lorafuse_bench.leaderboards import text

    place = {"floor": "floor", "oracle": "ref", "method": text.place(row)}[row.role]
    if row.source:
        place = _papers(board)[row.source]
    scores = _before_and_after(board, row) if board.oblivion else _over_the_oracle(board, row)
    return [place, text.printable(row.label), *scores]


def _before_and_after(board: Board, row: Row) -> list[str]:
    """Overall, its change and error; each task's score and, below it, the change from the base."""
    from lorafuse_bench.leaderboards import text
    from lorafuse_bench.leaderboards.plausible import BASE

    cells = [row.note or "–", "", ""]
    if row.overall and row.change:
        error = text.uncertainty(row.change).removeprefix("±")
        cells = [text.number(row.overall.value), text.signed(row.change.value), error]
    for column in board.columns:
        held = row.tasks.get(column.task)
        after = held.metrics.get(column.metric) if held else None
        change = held.change if held else None
        below = text.signed(change.value) if change and row.label != BASE else ""
        cells.append(f"{text.number(after.value) if after else '–'}\n{below}".rstrip())
    return cells


def _over_the_oracle(board: Board, row: Row) -> list[str]:
    """Ability, its error, tasks; in brackets the raw value of a task that does not count."""
    from lorafuse_bench.leaderboards import text

    cells: list[str] = []
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
