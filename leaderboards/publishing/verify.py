"""Whether results, or a published board, can be trusted: every check there is, all problems named.

A published folder holds `leaderboard.json`, the `results/` it was built of (scores and hashes), and
`caption.md`, the sentence that opens its captions. Building it again must give the same board.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.boards.board import Leaderboard, read_leaderboard
from lorafuse_bench.leaderboards.boards.builder import of_groups
from lorafuse_bench.leaderboards.boards.collect import (
    Cell,
    Group,
    check_errors,
    collect,
    grouped,
    is_leaderboard,
    make_statistics,
    read,
    result_files,
)
from lorafuse_bench.leaderboards.results.difference import differences
from lorafuse_bench.leaderboards.results.plausible import check_nowhere
from lorafuse_bench.leaderboards.results.reading import read_text
from lorafuse_bench.leaderboards.results.samples import check_samples

BOARD, RESULTS, CAPTION = "leaderboard.json", "results", "caption.md"
TOLERANCE = 1e-6  # of numbers that another processor may add up in another order


@dataclass(frozen=True)
class Report:
    """What was examined, and what is wrong with it; each problem names its file and field."""

    results: int
    boards: int
    problems: tuple[str, ...]


def verify(path: str | Path) -> Report:
    """Check a result file, a leaderboard file, a folder of results or a published folder; every file is read once."""
    path = Path(path)
    alone = path.is_file() and is_leaderboard(path)
    boards = [path] if alone else sorted(path.rglob(BOARD))
    where = path.parent / RESULTS if alone else path
    files, problems = list[Path](), list[str]()
    if where.is_dir() or not alone:
        try:
            files = result_files([where])
        except LorafuseError as error:
            problems.append(str(error))
    cells = _read(files, problems)
    groups = {} if path in files else _groups(where, cells, problems)
    found = [problem for board in boards for problem in _board_problems(board, groups, alone)]
    return Report(0 if alone else len(files), len(boards), tuple(dict.fromkeys([*found, *problems])))


def _read(files: Sequence[Path], problems: list[str]) -> dict[Path, Cell | None]:
    """Each file's cell, None where it is wrong by itself: schema, run id, items, samples, errors, a machine's path."""
    known: dict[str, tuple[str, ...]] = {}
    cells: dict[Path, Cell | None] = {}
    for file in files:
        try:
            cell = read(file, known)
            check_nowhere(file, cell.result)
            check_samples(file, cell.result, cell.items)
            cells[file] = cell
        except LorafuseError as error:
            cells[file] = None
            problems.append(str(error))
    make_statistics([cell for cell in cells.values() if cell])
    for file, whole in cells.items():
        try:
            if whole:
                check_errors(whole)
        except LorafuseError as error:
            cells[file] = None
            problems.append(str(error))
    return cells


def _groups(
    where: Path, cells: Mapping[Path, Cell | None], problems: list[str]
) -> dict[Path, list[Group] | None]:
    """Each grid's boards, None where a file of it is wrong, or does not compare with the others.

    A folder of published boards holds several grids, each of which compares within itself.
    """
    grids: dict[Path, list[Cell | None]] = {}
    for file, cell in cells.items():
        grids.setdefault(_grid(where, file), []).append(cell)
    groups: dict[Path, list[Group] | None] = {}
    for grid, members in sorted(grids.items()):
        groups[grid] = None
        try:
            if None not in members:
                groups[grid] = grouped([cell for cell in members if cell], _limited(grid.parent))
        except LorafuseError as error:
            problems.append(str(error))
    return groups


def _grid(path: Path, file: Path) -> Path:
    """The folder within which a result file is compared: the published folder that holds it, or `path`."""
    inside = [
        parent for parent in file.parents if (parent.parent / BOARD).is_file() and parent.name == RESULTS
    ]
    return inside[-1] if inside else path


def _limited(folder: Path) -> bool:
    """Whether the board of a published folder says that it is of limited runs."""
    if not (folder / BOARD).is_file():
        return False
    try:
        boards = read_leaderboard(folder / BOARD).boards
    except LorafuseError:  # said of the board itself
        return False
    return any(board.provenance.limit is not None for board in boards)


def _board_problems(board: Path, groups: Mapping[Path, list[Group] | None], alone: bool) -> Iterator[str]:
    """A leaderboard file by itself, and against the results beside it."""
    results = board.parent / RESULTS
    try:
        if groups.get(results) is None and (alone or results.is_dir()):
            read_leaderboard(board)  # what is wrong with its results is said of them
        else:
            standing(board, groups.get(results))
    except LorafuseError as error:
        yield str(error)


def standing(board: Path, groups: list[Group] | None = None) -> tuple[list[Group], Leaderboard]:
    """The cells of a published board, read here where they are not given, and the board that they make.

    LorafuseError where it is another.
    """
    folder, held = board.parent, read_leaderboard(board)
    if not (folder / RESULTS).is_dir():
        raise LorafuseError(
            f"{folder / RESULTS}: missing: a published board stands on its results. Add them."
        )
    if groups is None:
        groups = collect([folder / RESULTS], _limited(folder))
    made = of_groups(groups, caption_of(folder))
    difference = _difference(_content(held), _content(made))
    if difference:
        raise LorafuseError(f"{board}: {difference}. Build it again from its results.")
    return groups, made


def caption_of(folder: Path) -> str:
    """The sentence that opens a published folder's captions."""
    file = folder / CAPTION
    return " ".join(read_text(file).split()) if file.exists() else ""


def _content(leaderboard: Leaderboard) -> Any:
    return leaderboard.model_dump(mode="json", by_alias=True)


def _difference(held: Any, made: Any) -> str | None:
    """The first field in which two JSON values differ by more than another processor makes, in words."""
    for found in differences(held, made):
        if not _near(found.mine, found.theirs):
            mine, theirs = found.texts()
            return f"{found.where}: {mine}, but its results make {theirs}"
    return None


def _near(held: Any, made: Any) -> bool:
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (held, made))
    return numbers and math.isclose(held, made, rel_tol=TOLERANCE, abs_tol=1e-9)
