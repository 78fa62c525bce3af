"""Finding the cells of a results folder, and refusing those that must not stand in one board."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.board import LEADERBOARD_SCHEMA
from lorafuse_bench.leaderboards.schema import Items, Result, read_cell
from lorafuse_bench.leaderboards.stats import Statistic, statistic
from lorafuse_bench.tasks.suites import SUITES

BASE, ORACLE = "base", "oracle"

# Field -> what to do when two cells of one board differ in it.
SAME_IN_BOARD = {
    "data.source": "Build them apart: scores on different rows do not compare.",
    "limit": "Build them apart: a limited run and a full one were scored on different rows.",
    "base.dtype": "Build them apart, or run them alike.",
}
SAME_IN_ZOO = {
    "zoo.sha256": "The zoo changed between the runs: run the older cell again.",
    "base.sha256": "The base changed between the runs: run the older cell again.",
    "experts": "Methods compare only on the same experts: run the other cell again.",
    "data.splits": "The data changed between the runs: run the older cell again.",
}
SAME_IN_ROW = {
    "method.version": "The method changed between the runs: run the older cell again.",
    "method.options": "One label must stand for one set of options: run the older cell again.",
}


@dataclass(frozen=True)
class Cell:
    """One result with its items, and its metrics as statistics: task key -> metric name -> statistic."""

    path: Path
    result: Result
    items: Items
    statistics: dict[str, dict[str, Statistic]]

    @property
    def label(self) -> str:
        return self.result.method.label

    @property
    def seed(self) -> int:
        return self.result.zoo.seed

    def representative(self, key: str) -> Statistic:
        return self.statistics[key][self.result.tasks[key].representative]


@dataclass(frozen=True)
class Group:
    """The cells of one board: `cells[seed][label]`, every seed with its base and oracle."""

    suite: str
    zoo: str
    tasks: tuple[str, ...]
    cells: dict[int, dict[str, Cell]]


def collect(paths: Iterable[str | Path], allow_limit: bool = False) -> list[Group]:
    """The boards' cells, sorted; LorafuseError naming file and field for what cannot stand in a board."""
    files = sorted({file.resolve(): file for path in paths for file in _result_files(Path(path))}.values())
    cells = [_read(file) for file in files]
    cells.sort(key=lambda c: (*_board_of(c), c.seed, c.label))
    return [_group(list(members), allow_limit) for _, members in groupby(cells, key=_board_of)]


def _board_of(cell: Cell) -> tuple[str, str]:
    return cell.result.suite, cell.result.zoo.name


def _result_files(path: Path) -> list[Path]:
    """The JSON files below a folder, except leaderboards written into it; or the one file."""
    if path.is_file():
        return [path]
    found = [file for file in path.rglob("*.json") if not _is_leaderboard(file)]
    if not found:
        raise LorafuseError(f"{path}: no results here. Give the folder that `lorafuse run --out` wrote to.")
    return found


def _is_leaderboard(file: Path) -> bool:
    try:
        head = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(head, dict) and head.get("schema") == LEADERBOARD_SCHEMA


def _read(path: Path) -> Cell:
    result, items = read_cell(path)
    statistics = {
        key: {name: statistic(scores) for name, scores in task.metrics.items()}
        for key, task in items.root.items()
    }
    return Cell(path, result, items, statistics)


def _group(cells: list[Cell], allow_limit: bool) -> Group:
    """Check the cells of one board against each other."""
    first = cells[0]
    suite, zoo = _board_of(first)
    _require_same(cells, SAME_IN_BOARD)
    by_seed: dict[int, dict[str, Cell]] = {}
    for cell in cells:
        twin = by_seed.setdefault(cell.seed, {}).setdefault(cell.label, cell)
        if twin is not cell:
            raise LorafuseError(f"{cell.path}: method.label: the cell is also {twin.path}. Give only one.")
        _check_complete(cell, allow_limit)
    for row in ([c for c in cells if c.label == label] for label in {c.label: None for c in cells}):
        _require_same(row, SAME_IN_ROW)
    known = {key for cell in cells for key in cell.result.tasks}
    expected = SUITES.get(suite, ())
    tasks = (*expected, *sorted(known.difference(expected)))
    for seed, members in by_seed.items():
        _require_same(list(members.values()), SAME_IN_ZOO)
        _check_references(f"{suite} on zoo {zoo}, seed {seed}", members, tasks)
        for cell in members.values():
            _check_alike(cell, members[ORACLE], items=True)
    for members in by_seed.values():
        _check_alike(members[ORACLE], by_seed[first.seed][ORACLE], items=False)
    return Group(suite, zoo, tasks, by_seed)


def _check_complete(cell: Cell, allow_limit: bool) -> None:
    if cell.result.limit is not None and not allow_limit:
        raise LorafuseError(
            f"{cell.path}: limit: {cell.result.limit}, so only a part of the rows was scored. Run without"
            " --limit, or build with --allow-limit: the board then says so."
        )
    for key, task in cell.result.tasks.items():
        if cell.result.limit is None and task.n != task.n_original:
            raise LorafuseError(
                f"{cell.path}: tasks.{key}.n: {task.n} of {task.n_original} items without a limit."
                " Run the cell again."
            )


def _check_references(where: str, members: dict[str, Cell], tasks: Sequence[str]) -> None:
    """Every zoo needs the base (floor and gate) and the oracle (what scores are divided by), whole."""
    for label in (ORACLE, BASE):
        if label not in members:
            some = next(iter(members.values())).path
            raise LorafuseError(
                f"{some.parent}: method.label: no {label} for {where}. Run `lorafuse run --methods {label}`."
            )
        for key in tasks:
            if key not in members[label].result.tasks:
                raise LorafuseError(
                    f"{members[label].path}: tasks.{key}: missing, so nothing can be normalised by it."
                    f" Run the cell again."
                )


def _check_alike(cell: Cell, oracle: Cell, items: bool) -> None:
    """Same rows and same metrics as the oracle of the same zoo; between zoos only the same kind of rows."""
    for key, task in cell.result.tasks.items():
        other = oracle.result.tasks[key]
        for field in ("dataset", "n", "representative"):
            _refuse_other(cell, oracle, f"tasks.{key}.{field}", getattr(task, field), getattr(other, field))
        mine, theirs = (t.metrics[task.representative] for t in (task, other))
        for field in ("direction", "unit"):
            where = f"tasks.{key}.metrics.{task.representative}.{field}"
            _refuse_other(cell, oracle, where, getattr(mine, field), getattr(theirs, field))
        if items and cell.items.root[key].doc_hashes != oracle.items.root[key].doc_hashes:
            raise LorafuseError(
                f"{cell.path}: {key}.doc_hashes: other documents than {oracle.path} scored."
                " Run the older again."
            )
        if items and cell.representative(key).deviations.shape != oracle.representative(key).deviations.shape:
            raise LorafuseError(
                f"{cell.path}: {key}.metrics.{task.representative}: other kind of items than {oracle.path}."
                " Run the older again."
            )


def _refuse_other(cell: Cell, oracle: Cell, field: str, mine: Any, theirs: Any) -> None:
    if mine != theirs:
        raise LorafuseError(
            f"{cell.path}: {field}: '{mine}', but {oracle.path} has '{theirs}'. Run the older again."
        )


def _require_same(cells: Sequence[Cell], fields: dict[str, str]) -> None:
    for field, advice in fields.items():
        for cell in cells[1:]:
            mine, theirs = _dig(cell.result, field), _dig(cells[0].result, field)
            if mine != theirs:
                raise LorafuseError(
                    f"{cell.path}: {field}: {_short(mine)}, but {cells[0].path} has {_short(theirs)}."
                    f" {advice}"
                )


def _dig(result: Result, field: str) -> Any:
    value: Any = result
    for name in field.split("."):
        value = getattr(value, name)
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
