"""Boards as tables: the terminal and notebooks show the same."""

from __future__ import annotations

from itertools import pairwise

from lorafuse_bench.leaderboards import text
from lorafuse_bench.leaderboards.board import Board, Leaderboard, Row
from lorafuse_bench.leaderboards.plausible import BASE
from lorafuse_bench.tables import Table

ROOM_FOR_COSTS = 100
MOST_TASKS = 16
HIDDEN = "Each of the {} tasks stands in the board's file and page."
MEANS = {
    "scored": ("ability", "±"),
    "losses": ("Δ oracle", "±", "loss", "± tasks", "recovered"),
    "oblivion": ("overall", "delta", "±"),
}


def tables_of(leaderboard: Leaderboard, width: int = ROOM_FOR_COSTS) -> list[Table]:
    """Every board as a table with its caption; costs have room from 100 columns of `width` on."""
    return [table_of(board, costs=width >= ROOM_FOR_COSTS) for board in leaderboard.boards]


def table_of(board: Board, costs: bool = True) -> Table:
    """One board: its rows as they rank, the papers' greyed below; caption, uncounted tasks and papers as notes."""
    kind = "oblivion" if board.oblivion else "losses" if board.losses else "scored"
    hidden = len(board.columns) if len(board.columns) > MOST_TASKS else 0
    if hidden:
        board = board.model_copy(update={"columns": ()})
    tasks = (column.task.replace("_", "_\n") for column in board.columns)
    sources = [row.source for row in board.rows]
    not_counted = (f"{c.task} does not count: {c.reason}." for c in board.columns if c.reason)
    papers = (f"{name}: {source}." for source, name in _papers(board).items())
    return Table(
        headings=["", "method", *MEANS[kind], *tasks, *(("params", "eval s") if costs else ())],
        rows=[_cells(board, row) + (_costs(row) if costs else []) for row in board.rows],
        title=f"{board.suite} on {board.zoo}",
        notes=[board.caption, *not_counted, *papers, *([HIDDEN.format(hidden)] if hidden else [])],
        words=(1,),
        breaks=[i for i, (before, after) in enumerate(pairwise(sources), 1) if before != after],
        dim=[i for i, source in enumerate(sources) if source],
    )


def _papers(board: Board) -> dict[str, str]:
    """Source of reported rows -> how the table calls it; numbered where there are several."""
    sources = list(dict.fromkeys(row.source for row in board.rows if row.source))
    return {s: "paper" if len(sources) == 1 else f"paper {i}" for i, s in enumerate(sources, start=1)}


def _cells(board: Board, row: Row) -> list[str]:
    """Rank, role or paper, method, and the scores."""
    place = {"floor": "floor", "oracle": "ref", "method": text.place(row)}[row.role]
    if row.source:
        place = _papers(board)[row.source]
    show = _before_and_after if board.oblivion else _above_the_oracle if board.losses else _over_the_oracle
    scores = show(board, row)
    return [place, row.label, *scores]


def _before_and_after(board: Board, row: Row) -> list[str]:
    """Overall, its change and error; each task's score and, below it, the change from the base."""
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


def _above_the_oracle(board: Board, row: Row) -> list[str]:
    """Mean loss minus the oracle's and its error over items, mean loss and its error over tasks, gap; tasks' losses."""
    cells = [row.note or "–", "", "", "", ""]
    if row.losses:
        found = row.losses
        cells = [
            text.signed(found.excess.value),
            text.uncertainty(found.excess).removeprefix("±"),
            text.number(found.mean.value),
            "" if found.se_tasks is None else f"{found.se_tasks:.3f}",
            "–" if found.recovered is None else text.number(found.recovered.value),
        ]
    for column in board.columns:
        held = row.tasks.get(column.task)
        raw = held.metrics.get(column.metric) if held else None
        cells.append("–" if raw is None else text.number(raw.value))
    return cells


def _costs(row: Row) -> list[str]:
    if row.cost is None:
        return ["–", "–"]
    return [text.amount(row.cost.extra_parameters), text.seconds(row.cost.eval_seconds)]
