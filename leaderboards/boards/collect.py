"""Finding the cells of a results folder, ours and lm-eval's, and grouping them into boards."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.boards import alike
from lorafuse_bench.leaderboards.boards.board import LEADERBOARD_SCHEMA
from lorafuse_bench.leaderboards.boards.controls import controlled
from lorafuse_bench.leaderboards.measures import Array
from lorafuse_bench.leaderboards.results import plausible
from lorafuse_bench.leaderboards.results.cell_files import read_cell
from lorafuse_bench.leaderboards.results.item_checks import measure_of
from lorafuse_bench.leaderboards.results.lm_eval_results import is_lm_eval, read_lm_eval
from lorafuse_bench.leaderboards.results.made_of import Method
from lorafuse_bench.leaderboards.results.reading import parsed, read_bytes
from lorafuse_bench.leaderboards.results.schema import Items, Result
from lorafuse_bench.leaderboards.statistics.stats import Statistic, draws_of, statistics
from lorafuse_bench.tasks import catalogue
from lorafuse_bench.tasks.suites import of_oblivion
from lorafuse_bench.tasks.suites import suite as suite_of

BASE, ORACLE = plausible.BASE, plausible.ORACLE


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
    """The cells of one board: `cells[seed][label]`, every seed with its references."""

    suite: str
    zoo: str
    tasks: tuple[str, ...]
    cells: dict[int, dict[str, Cell]]
    _drawn: dict[tuple[int, str], dict[str, Array]] = field(default_factory=dict, compare=False, repr=False)

    def draws(self, seed: int, key: str) -> dict[str, Array]:
        """Label to `(draws,)`: a task's main metric over resampled items, the same for all methods.

        Made once, for all who ask; those of a corpus metric are what its standard error came from.
        """
        if (seed, key) not in self._drawn:
            having = {label: cell for label, cell in self.cells[seed].items() if key in cell.result.tasks}
            documents = next(iter(having.values())).result.tasks[key].docs_sha256
            drawn = draws_of([cell.representative(key) for cell in having.values()], documents)
            self._drawn[seed, key] = dict(zip(having, drawn, strict=True))
        return self._drawn[seed, key]

    @property
    def oblivion(self) -> bool:
        """Whether no expert was trained for these tasks: an oblivion suite, or adapters beside the base alone."""
        cells = [cell for members in self.cells.values() for cell in members.values()]
        alone = any(cell.result.method.family == "adapters" for cell in cells) and not any(
            cell.result.experts for cell in cells
        )
        kept = next((cell.result.definition for cell in cells if cell.result.definition), None)
        return alone or (kept.kind == "oblivion" if kept else of_oblivion(self.suite))

    @property
    def losses(self) -> bool:
        """Whether the suite is of losses, which have no ability but an order of their own."""
        kept = self.reference(min(self.cells)).result.definition
        return kept is not None and kept.kind == "loss" and not self.oblivion

    @cached_property
    def oracle(self) -> str:
        """The label of what scores are divided by: `oracle`, or the one that was told which expert serves a task.

        LorafuseError where two were told differently.
        """
        cells = [cell for members in self.cells.values() for cell in members.values()]
        oracles = {cell.label: cell.path for cell in cells if is_oracle(cell.result.method)}
        if ORACLE in oracles or not oracles:
            return ORACLE
        (first, _), *others = oracles.items()
        for label, path in others:
            raise LorafuseError(
                f"{path}: method.label: {label}, beside {first}: scores are divided by one oracle."
                " Give one of them, or oracle."
            )
        return first

    @property
    def references(self) -> tuple[str, ...]:
        """What every zoo must have, whole; the first is what the others must be like."""
        return (BASE,) if self.oblivion else (self.oracle, BASE)

    def reference(self, seed: int) -> Cell:
        return self.cells[seed][self.references[0]]


def is_oracle(method: Method) -> bool:
    """Whether a method is the oracle, whatever it was told; one wrong expert is a floor, a control no reference."""
    reference = method.name == ORACLE and method.family == plausible.REFERENCES[ORACLE]
    return reference and controlled(method.label) is None


def collect(paths: Iterable[str | Path], allow_limit: bool = False) -> list[Group]:
    """The boards' cells, sorted; LorafuseError naming file and field for what cannot stand in a board."""
    known: dict[str, tuple[str, ...]] = {}
    return grouped([read(file, known) for file in result_files(paths)], allow_limit)


def grouped(cells: Iterable[Cell], allow_limit: bool = False) -> list[Group]:
    """Cells that were read already as those of boards, sorted; LorafuseError as for `collect`."""
    ordered = sorted(cells, key=lambda c: (*_board_of(c), c.seed, c.label))
    return [_group(list(members), allow_limit) for _, members in groupby(ordered, key=_board_of)]


def _board_of(cell: Cell) -> tuple[str, str]:
    return cell.result.suite, cell.result.zoo.name


def result_files(paths: Iterable[str | Path]) -> list[Path]:
    """The files themselves, and the JSON files below folders except leaderboards written into them."""
    found: dict[str, Path] = {}
    for path in map(Path, paths):
        below = [path] if path.is_file() else [f for f in path.rglob("*.json") if not is_leaderboard(f)]
        if not below:
            raise LorafuseError(
                f"{path}: no results here. Give the folder that `lorafuse run --out` wrote to."
            )
        found |= {os.path.realpath(file): file for file in below}
    return sorted(found.values())


def is_leaderboard(file: Path) -> bool:
    """Whether a file is a leaderboard, not a result."""
    head = None
    with suppress(LorafuseError):  # whoever reads it as a result says what is wrong
        head = _head(file)
    kind = LEADERBOARD_SCHEMA.partition("/")[0]
    return isinstance(head, dict) and str(head.get("schema")).startswith(f"{kind}/")


def _head(file: Path) -> Any:
    """The file's JSON, None if it is not JSON; LorafuseError if it is not a file or too large."""
    content = read_bytes(file)
    with suppress(LorafuseError):
        return parsed(file, content, "")
    return None


def read(path: Path, known: dict[str, tuple[str, ...]]) -> Cell:
    """One cell, without statistics; `known` holds each list of documents once, whichever cells have it."""
    result, items = read_lm_eval(path) if is_lm_eval(_head(path)) else read_cell(path)
    shared = {
        key: held.with_hashes(known.setdefault(result.tasks[key].docs_sha256, held.doc_hashes))
        for key, held in items.root.items()
    }
    return Cell(path, result, Items.model_construct(shared), {key: {} for key in result.tasks})


def fill_statistics(cells: Sequence[Cell]) -> None:
    """`make_statistics`, and `check_errors` of each cell."""
    make_statistics(cells)
    for cell in cells:
        check_errors(cell)


def make_statistics(cells: Sequence[Cell]) -> None:
    """Statistics of all cells that have none yet; cells on the same documents share their bootstrap draws."""
    together: dict[tuple[str, str, str, str], list[Cell]] = {}
    for cell in cells:
        for key, task in cell.result.tasks.items():
            for name, metric in task.metrics.items() if not cell.statistics[key] else ():
                same = (key, name, task.docs_sha256, metric.measure or metric.stderr_method)
                together.setdefault(same, []).append(cell)
    for (key, name, documents, _), members in together.items():
        tables = [cell.items.root[key].metrics[name] for cell in members]
        measure = measure_of(members[0].result.tasks[key].metrics[name], tables[0])
        for cell, found in zip(members, statistics(tables, documents, measure), strict=True):
            cell.statistics[key][name] = found


def check_errors(cell: Cell) -> None:
    """LorafuseError where what a result says of its standard errors is not what its items make."""
    for key, task in cell.result.tasks.items():
        for name, metric in task.metrics.items():
            said, made = metric.stderr, cell.statistics[key][name].estimate().se
            alike = math.isclose(said or 0.0, made or 0.0, rel_tol=1e-6, abs_tol=1e-9)
            if not alike or (said is None) != (made is None):
                raise LorafuseError(
                    f"{cell.path}: tasks.{key}.metrics.{name}.stderr: {said}, but the items make {made}."
                    " Run the cell again."
                )


def _expected(result: Result, known: Collection[str]) -> tuple[str, ...]:
    """The suite's tasks in its order: as the result keeps it, as it is known here, or as the cells have them."""
    if result.definition:
        return result.definition.keys
    if result.suite in catalogue.ours():
        return tuple(suite_of(result.suite).tasks)
    return tuple(key for key in result.suite.split("/") if key in known)


def _group(cells: list[Cell], allow_limit: bool) -> Group:
    """The board of these cells, which must compare."""
    suite, zoo = _board_of(cells[0])
    by_seed: dict[int, dict[str, Cell]] = {}
    for cell in cells:
        twin = by_seed.setdefault(cell.seed, {}).setdefault(cell.label, cell)
        if twin is not cell:
            raise LorafuseError(f"{cell.path}: method.label: the cell is also {twin.path}. Give only one.")
    known = {key for cell in cells for key in cell.result.tasks}
    expected = _expected(cells[0].result, known)
    group = Group(suite, zoo, (*expected, *sorted(known.difference(expected))), by_seed)
    alike.check(group, allow_limit)
    fill_statistics(cells)
    return group
