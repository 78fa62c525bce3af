"""The leaderboard as one static page: opens from disk, asks the network for nothing, runs no script.

Labels and every other string of a result are untrusted: the template escapes them all, and the page's
own policy forbids scripts and requests.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from lorafuse_bench.files import write_text
from lorafuse_bench.leaderboards import text
from lorafuse_bench.leaderboards.board import Board, Column, Leaderboard, Row, Score


@dataclass(frozen=True)
class CellView:
    """One table cell: what is written, what hovering says, how strongly it is coloured (0 to 1)."""

    value: str = "–"
    error: str = ""
    title: str = "not measured"
    heat: float | None = None
    kind: str = "missing"


@dataclass(frozen=True)
class RowView:
    """One row and its cells, in the order of the columns."""

    row: Row
    ability: CellView
    scores: tuple[CellView, ...]
    raw: tuple[CellView, ...]


@dataclass(frozen=True)
class BoardView:
    """One board: rows measured here, the papers' rows by source, and every metric of the raw table."""

    board: Board
    anchor: str
    metrics: tuple[tuple[str, str], ...]
    measured: tuple[RowView, ...]
    reported: tuple[tuple[str, tuple[RowView, ...]], ...]


def write_page(folder: str | Path, leaderboard: Leaderboard) -> Path:
    """Write `index.html` into `folder` and return its path."""
    path = Path(folder) / "index.html"
    write_text(path, render(leaderboard))
    return path


def render(leaderboard: Leaderboard) -> str:
    """The page's HTML; the same leaderboard gives the same text."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"amount": text.amount, "seconds": text.seconds, "pieces": _pieces}
    source = (files("lorafuse_bench.leaderboards") / "templates" / "board.html.j2").read_text()
    views = [_board_view(position, board) for position, board in enumerate(leaderboard.boards, start=1)]
    return environment.from_string(source).render(views=views)


def _board_view(position: int, board: Board) -> BoardView:
    columns = {column.task: column for column in board.columns}
    metrics = {
        (key, name): None
        for key in columns
        for row in board.rows
        if row.origin == "measured" and key in row.tasks
        for name in sorted(row.tasks[key].metrics)
    }
    views = [_row_view(board, row, tuple(metrics)) for row in board.rows]
    papers = groupby((v for v in views if v.row.origin == "reported"), key=lambda v: v.row.source or "")
    return BoardView(
        board=board,
        anchor=f"board-{position}",
        metrics=tuple(metrics),
        measured=tuple(view for view in views if view.row.origin == "measured"),
        reported=tuple((source, tuple(members)) for source, members in papers),
    )


def _row_view(board: Board, row: Row, metrics: tuple[tuple[str, str], ...]) -> RowView:
    return RowView(
        row=row,
        ability=_ability(row),
        scores=tuple(_score(column, row) for column in board.columns),
        raw=tuple(_raw(row, key, name) for key, name in metrics),
    )


def _ability(row: Row) -> CellView:
    if row.ability is None:
        return CellView(title=row.note or "no task counts")
    return CellView(
        value=text.number(row.ability.value),
        error=_error(row, row.ability),
        title=text.details("ability", row.ability),
        heat=_heat(row.ability.value),
        kind="normalised",
    )


def _score(column: Column, row: Row) -> CellView:
    """A task's cell: the normalised score, or for a loss the difference, or the raw value."""
    scores = row.tasks.get(column.task)
    if scores is None:
        return CellView()
    score, kind = text.shown(column, scores)
    if score is None:
        return CellView()
    lines = [text.details(name, held) for name, held in sorted(scores.metrics.items())]
    if kind != "raw":
        lines.insert(
            0, text.details({"normalised": "over the oracle", "difference": "minus the oracle"}[kind], score)
        )
    if scores.recovered is not None:
        lines.insert(1, text.details("recovered gap", scores.recovered))
    heat = scores.normalised or scores.recovered
    return CellView(
        value=("+" if kind == "difference" and score.value > 0 else "") + text.number(score.value),
        error=_error(row, score) if kind == "normalised" else text.uncertainty(score),
        title="\n".join(lines),
        heat=_heat(heat.value) if heat else None,
        kind=kind,
    )


def _raw(row: Row, key: str, name: str) -> CellView:
    scores = row.tasks.get(key)
    if scores is None or name not in scores.metrics:
        return CellView()
    score = scores.metrics[name]
    return CellView(text.number(score.value), text.uncertainty(score), text.details(name, score), kind="raw")


def _error(row: Row, score: Score) -> str:
    """The oracle is 1 by definition, not by measurement."""
    return "" if row.role == "oracle" else text.uncertainty(score)


def _pieces(label: str) -> list[str]:
    """A label cut where a narrow column may break it: after `:`, `,`, `=` and `_`."""
    return re.findall(r"[^:,=_]*[:,=_]*", label)[:-1]


def _heat(value: float) -> float:
    """Only the colour is limited to 0..1; the number never is."""
    return round(min(max(value, 0.0), 1.0), 3)
