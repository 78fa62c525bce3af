"""Task oblivion: what training on new tasks took from the base, before, after and delta on each task."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from lorafuse_bench.analysis.curve import BASE, curve, measured
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.board import Board, Row, Score
from lorafuse_bench.picture import colours, new_figure, write_figure
from lorafuse_bench.tasks.suites import suites


def oblivion(boards: Sequence[Board], suite: str) -> dict[str, Any]:
    """The table of one suite: before (the base), after, delta, and their means over its tasks.

    Where there are boards of adapters of several numbers of tasks, it is that of the most tasks. The statistics
    are the board's own: paired standard errors over items, deviation over seeds. Source: Yuan et al. 2025,
    Table 12.
    """
    count, board = _stages(boards, suite)[-1]
    rows = {row.label: row for row in measured(board)}
    metric = {column.task: column.metric for column in board.columns}
    before = {task: rows[BASE].tasks[task].metrics[name].value for task, name in metric.items()}
    return {
        "schema": "lorafuse.analysis.oblivion/1",
        "suite": suite,
        "trained_on": count or None,
        "before": {**before, "overall": _value(rows[BASE].overall)},
        "methods": {label: _entry(row, metric) for label, row in rows.items() if label != BASE},
    }


def against_tasks(boards: Sequence[Board], suite: str) -> dict[str, Any] | None:
    """What is left of the suite after training on K tasks, for every K there is a board of; None for a single one.

    K is the number of tasks of the board of what the same zoo's adapters were trained on. Source: Yuan et al.
    2025, section 4.3 (oblivion against task number and difficulty).
    """
    stages = _stages(boards, suite)
    if len(stages) < 2:
        return None
    return {
        "schema": "lorafuse.analysis.oblivion_against_tasks/1",
        "suite": suite,
        "scored": f"mean score over {suite}",
        "methods": curve(stages),
    }


def _stages(boards: Sequence[Board], suite: str) -> list[tuple[int, Board]]:
    """(Number of tasks trained on, board of the suite), fewest first; the number is 0 where no board tells it."""
    measures = {key for each in suites() if each.kind == "oblivion" for key in each.tasks}
    counts = {
        board.zoo: len(board.columns)
        for board in boards
        if board.oblivion and measures.isdisjoint(column.task for column in board.columns)
    }
    own = [board for board in boards if board.suite == suite and board.oblivion]
    stages = sorted(((counts.get(board.zoo, 0), board) for board in own), key=itemgetter(0))
    if not stages or len({count for count, _ in stages}) < len(stages):
        raise LorafuseError(
            f"{len(own)} boards of what {suite} lost, where one for each number of tasks trained on is needed."
            " Give the results of one study."
        )
    return stages


def plot(result: dict[str, Any], path: Path) -> None:
    """Write a PNG of deltas, one group of bars a task and one for the mean over tasks."""
    figure, axes = new_figure(width=9)
    groups, methods = list(result["before"]), result["methods"]
    width = 0.8 / max(len(methods), 1)
    for place, ((label, entry), colour) in enumerate(zip(methods.items(), colours(), strict=False)):
        deltas = [entry["delta"].get(group) for group in groups]
        at = [i - 0.4 + (place + 0.5) * width for i in range(len(groups))]
        values = [(delta or {"value": 0.0})["value"] for delta in deltas]
        axes.bar(at, values, width, label=label, color=colour)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(groups)), groups, rotation=25, ha="right")
    axes.set_ylabel("after minus before")
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside right upper")
    write_figure(figure, path)


def _entry(row: Row, metric: dict[str, str]) -> dict[str, Any]:
    after = {
        task: _value(row.tasks[task].metrics[name]) for task, name in metric.items() if task in row.tasks
    }
    delta = {task: _score(row.tasks[task].change) for task in metric if task in row.tasks}
    return {
        "after": {**after, "overall": _value(row.overall)},
        "delta": {**delta, "overall": _score(row.change)},
    }


def _value(score: Score | None) -> float | None:
    return None if score is None else score.value


def _score(score: Score | None) -> dict[str, Any] | None:
    return None if score is None else {"value": score.value, "se": score.se, "sd": score.sd}
