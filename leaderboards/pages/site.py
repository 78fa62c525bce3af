"""All published boards of a folder as one static site: an index, every board's page, and a page for each method.

    index.html                      boards and methods, with a search
    boards/<folder>/index.html      the page of a board (page.py); <folder> is the published folder's own name
    methods/<method>.html           where the method stands on every board

Addresses depend on names alone, so a link holds where other boards come and go.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import write_text
from lorafuse_bench.leaderboards.boards.board import Board, Leaderboard
from lorafuse_bench.leaderboards.boards.evidence import Evidence, evidence_of
from lorafuse_bench.leaderboards.boards.standings import (
    MEASURES,
    Scale,
    Standing,
    best_of,
    method_of,
    standings,
)
from lorafuse_bench.leaderboards.boards.text import place
from lorafuse_bench.leaderboards.pages import html, page
from lorafuse_bench.leaderboards.publishing.verify import BOARD, standing

SCRIPTS = ("dom", "theme", "filter")
LONGEST = 60  # letters of a file name


@dataclass(frozen=True)
class Published:
    """One published folder: its name below the site's folder, and what it holds."""

    name: str
    leaderboard: Leaderboard
    evidence: list[Evidence]

    @property
    def address(self) -> str:
        """Of its page, below the site's root."""
        return "/".join(["boards", *(slug(part) for part in PurePosixPath(self.name).parts), "index.html"])


def slug(name: str) -> str:
    """A name as a file may be called, anywhere: `moa` is `moa`; any other than such gets a piece of its hash."""
    plain = re.sub(r"[^a-z0-9_.-]+", "-", name.lower()).strip("-.")[:LONGEST]
    same = plain == name and name != "index"
    return plain if same else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}".lstrip("-")


def read_published(folder: str | Path) -> list[Published]:
    """Every published board below `folder`, held against its results.

    LorafuseError where there is none, and for the first that is not what its results make.
    """
    folder = Path(folder)
    files = sorted(folder.rglob(BOARD))
    if not files:
        raise LorafuseError(
            f"{folder}: no {BOARD} below it. Give a folder of published boards, made by `lorafuse leaderboard pack`."
        )
    return [_published(folder, file) for file in files]


def _published(folder: Path, file: Path) -> Published:
    groups, leaderboard = standing(file)
    name = file.parent.relative_to(folder).as_posix()
    name = folder.resolve().name if name == "." else name
    return Published(name, leaderboard, evidence_of(groups, leaderboard))


def write_site(folder: str | Path, out: str | Path) -> list[Path]:
    """Write the site of the boards below `folder` into `out`; its files, the index first.

    The same boards give the same files. LorafuseError as in `read_published`; then nothing is written.
    """
    published = read_published(folder)
    boards = [(one.name, one.address, board) for one in published for board in one.leaderboard.boards]
    methods = standings(boards)
    pages = {"index.html": _index(published, methods)}
    for one in published:
        pages[one.address] = _board(one)
    for method, held in methods.items():
        pages[_method_address(method)] = _method(method, held)
    for address, content in pages.items():
        write_text(Path(out) / address, content)
    return [Path(out) / address for address in pages]


def _method_address(method: str) -> str:
    return f"methods/{slug(method)}.html"


def _index(published: list[Published], methods: dict[str, list[Standing]]) -> str:
    rows = [(one, board) for one in published for board in one.leaderboard.boards]
    return html.render(
        "site",
        SCRIPTS,
        home=None,
        boards=rows,
        methods=methods,
        address=_method_address,
        first=_first,
        best_of=best_of,
        place=place,
    )


def _first(one: Published, board: Board) -> Standing | None:
    """The method in the first place."""
    best = [row for row in board.rows if row.rank == 1]
    return Standing(one.name, one.address, board, best[0]) if best else None


def _board(one: Published) -> str:
    root = "../" * one.address.count("/")
    labels = {row.label for board in one.leaderboard.boards for row in board.rows}
    return page.render(
        one.leaderboard,
        one.evidence,
        home=f"{root}index.html",
        methods={label: root + _method_address(method_of(label)) for label in labels},
    )


def _method(method: str, held: list[Standing]) -> str:
    by_measure = [(measure, [one for one in held if one.measure is measure]) for measure in MEASURES]
    tables = [(measure, Scale.over(some, measure.reference), some) for measure, some in by_measure if some]
    root = os.path.relpath(".", "methods")
    return html.render(
        "method", SCRIPTS, home=f"{root}/index.html", root=root, method=method, tables=tables, place=place
    )
