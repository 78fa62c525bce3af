"""Whether results, or a published board, can be trusted: every check there is, all problems named.

A published folder holds `leaderboard.json`, the `results/` it was built of (scores and hashes), and
`caption.md`, the sentence that opens its captions. Building it again must give the same board.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.board import Leaderboard, read_leaderboard
from lorafuse_bench.leaderboards.builder import of_groups
from lorafuse_bench.leaderboards.collect import (
    Group,
    collect,
    fill_statistics,
    is_leaderboard,
    read,
    result_files,
)
from lorafuse_bench.leaderboards.difference import differences
from lorafuse_bench.leaderboards.plausible import check_nowhere
from lorafuse_bench.leaderboards.reading import read_text

BOARD, RESULTS, CAPTION = "leaderboard.json", "results", "caption.md"
TOLERANCE = 1e-6  # of numbers that another processor may add up in another order


@dataclass(frozen=True)
class Report:
    """What was looked at, and what is wrong with it; each problem names its file and field."""

    results: int
    boards: int
    problems: tuple[str, ...]


def verify(path: str | Path) -> Report:
    """Check a result file, a leaderboard file, a folder of results or a published folder."""
    path = Path(path)
    boards = [path] if path.is_file() and is_leaderboard(path) else sorted(path.rglob(BOARD))
    problems = [problem for board in boards for problem in _board_problems(board, alone=board == path)]
    if path in boards:
        return Report(0, 1, tuple(problems))
    try:
        files = result_files([path])
    except LorafuseError as error:
        return Report(0, len(boards), (*problems, str(error)))
    problems += _result_problems(path, files)
    return Report(len(files), len(boards), tuple(dict.fromkeys(problems)))


def _result_problems(path: Path, files: list[Path]) -> Iterator[str]:
    """What is wrong with each file by itself; if nothing is, what is wrong between them."""
    found = False
    for file in files:
        problem = _problem(lambda file=file: _check_alone(file))  # type: ignore[misc]
        if problem:
            found = True
            yield problem
    if found or path.is_file():
        return
    # A folder of published boards holds several grids, each of which compares within itself.
    for grid in sorted({_grid(path, file) for file in files}):
        problem = _problem(lambda grid=grid: collect([grid], _limited(grid.parent)))  # type: ignore[misc]
        if problem:
            yield problem


def _grid(path: Path, file: Path) -> Path:
    """The folder that a result file is compared within: the published one it lies in, or `path`."""
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


def _problem(check: Callable[[], object]) -> str | None:
    try:
        check()
    except LorafuseError as error:
        return str(error)
    return None


def _check_alone(file: Path) -> None:
    """One cell: schema, run id, items, errors, no path of a machine."""
    cell = read(file, {})
    fill_statistics([cell])
    check_nowhere(file, cell.result)


def _board_problems(board: Path, alone: bool) -> Iterator[str]:
    """A leaderboard file by itself, and against the results beside it."""
    try:
        if alone and not (board.parent / RESULTS).is_dir():
            read_leaderboard(board)
        else:
            standing(board)
    except LorafuseError as error:
        yield str(error)


def standing(board: Path) -> tuple[list[Group], Leaderboard]:
    """The cells of a published board, and the board that they make; LorafuseError where it is another."""
    folder, held = board.parent, read_leaderboard(board)
    if not (folder / RESULTS).is_dir():
        raise LorafuseError(
            f"{folder / RESULTS}: missing: a published board stands on its results. Add them."
        )
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
