"""Boards as tables: the terminal and notebooks show the same."""

from __future__ import annotations

from itertools import pairwise

from lorafuse_bench.leaderboards.boards import text
from lorafuse_bench.leaderboards.boards.board import Board, Leaderboard, Row
from lorafuse_bench.leaderboards.results.plausible import BASE
from lorafuse_bench.leaderboards.statistics.stats import Z95
from lorafuse_bench.tables import Table

ROOM_FOR_COSTS = 100
"""Columns of a terminal that shows costs too."""
MOST_TASKS = 16
HIDDEN = "Each of the {} tasks stands in the board's file and page."
LEAD = "method −\ncontrol"
MEANS = {
    "scored": ("ability", "±"),
    "losses": ("Δ oracle", "±", "loss", "± tasks", "recovered"),
    "oblivion": ("overall", "delta", "±"),
}


def tables_of(leaderboard: Leaderboard, costs: bool = True, raw: bool = False) -> list[Table]:
    """Every board as a table with its caption."""
    return [table_of(board, costs, raw) for board in leaderboard.boards]


def table_of(board: Board, costs: bool = True, raw: bool = False) -> Table:
    """One board: its rows as they rank, the papers' greyed below; caption, uncounted tasks and papers as notes.

    raw: tasks show their metric, not the score over the oracle's.
    """
    kind = "oblivion" if board.oblivion else "losses" if board.losses else "scored"
    hidden = len(board.columns) if len(board.columns) > MOST_TASKS else 0
    if hidden:
        board = board.model_copy(update={"columns": ()})
    tasks = (column.task.replace("_", "_\n") for column in board.columns)
    sources = [row.source for row in board.rows]
    not_counted = (f"{c.task} does not count: {c.reason}." for c in board.columns if c.reason)
    papers = (f"{name}: {source}." for source, name in _papers(board).items())
    lead = [LEAD] if any(row.control_of for row in board.rows) else []
    return Table(
        headings=["", "method", *MEANS[kind], *tasks, *lead, *(("params", "eval s") if costs else ())],
        rows=[
            _cells(board, row, raw) + [_lead(row) for _ in lead] + (_costs(row) if costs else [])
            for row in board.rows
        ],
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


def _cells(board: Board, row: Row, raw: bool) -> list[str]:
    """Rank, role or paper, method, and the scores."""
    place = {"oracle": "ref", "method": text.place(row)}.get(row.role, row.role)
    if row.source:
        place = _papers(board)[row.source]
    if board.oblivion:
        return [place, row.label, *_before_and_after(board, row)]
    means = _above_the_oracle(row) if board.losses else _over_the_oracle(row)
    of_tasks = _metrics if raw or board.losses else _shares
    return [place, row.label, *means, *of_tasks(board, row)]


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


def _over_the_oracle(row: Row) -> list[str]:
    """Ability and its error."""
    if row.ability is None:
        return [row.note or "–", ""]
    return [text.number(row.ability.value), text.uncertainty(row.ability).removeprefix("±")]


def _above_the_oracle(row: Row) -> list[str]:
    """Mean loss minus the oracle's and its error over items, mean loss and its error over tasks, gap."""
    if not row.losses:
        return [row.note or "–", "", "", "", ""]
    found = row.losses
    return [
        text.signed(found.excess.value),
        text.uncertainty(found.excess).removeprefix("±"),
        text.number(found.mean.value),
        "" if found.se_tasks is None else f"{found.se_tasks:.3f}",
        "–" if found.recovered is None else text.number(found.recovered.value),
    ]


def _shares(board: Board, row: Row) -> list[str]:
    """Each task's score over the oracle's; in brackets the raw value of a task that does not count."""
    cells = []
    for column in board.columns:
        score, kind = text.shown(column, row.tasks[column.task]) if column.task in row.tasks else (None, "")
        value = "–" if score is None else text.number(score.value)
        cells.append({"raw": f"({value})", "difference": f"Δ{value}"}.get(kind, value))
    return cells


def _metrics(board: Board, row: Row) -> list[str]:
    """Each task's metric."""
    held = [(row.tasks.get(column.task), column.metric) for column in board.columns]
    found = [scores.metrics.get(metric) if scores else None for scores, metric in held]
    return ["–" if raw is None else text.number(raw.value) for raw in found]


def _lead(row: Row) -> str:
    """How much better a control's method is, and below it the 95% interval."""
    lead = row.method_lead
    if lead is None:
        return "–" if row.control_of else ""
    ends = [lead.value + side * Z95 * lead.se for side in (-1, 1)] if lead.se is not None else []
    return "\n".join([text.signed(lead.value), " to ".join(map(text.signed, ends))]).rstrip()


def _costs(row: Row) -> list[str]:
    if row.cost is None:
        return ["–", "–"]
    return [text.amount(row.cost.extra_parameters), text.seconds(row.cost.eval_seconds)]
