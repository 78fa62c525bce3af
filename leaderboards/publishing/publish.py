"""Published boards: packing results into a folder that others can check, and putting it on the hub."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lorafuse_bench import hub
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import write_text
from lorafuse_bench.hub import Upload
from lorafuse_bench.leaderboards.boards.board import Leaderboard, write_leaderboard
from lorafuse_bench.leaderboards.boards.builder import of_groups
from lorafuse_bench.leaderboards.boards.collect import collect
from lorafuse_bench.leaderboards.publishing.verify import BOARD, CAPTION, RESULTS, caption_of, verify
from lorafuse_bench.leaderboards.results.cell_files import write_cell
from lorafuse_bench.leaderboards.results.samples import SUFFIX


def pack(
    paths: Iterable[str | Path], folder: str | Path, caption: str, allow_limit: bool = False
) -> Leaderboard:
    """Write a published folder: `results/` (scores and hashes), `caption.md`, and the board they make.

    Results of lm-eval are rewritten as ours: their own files hold documents. Texts stay behind, and the
    documents' hashes are kept once for all cells. The folder must be new. LorafuseError for cells that do
    not compare.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise LorafuseError(f"{folder}: not empty. Name a new folder, so that nothing old stays in it.")
    groups = collect(paths, allow_limit)
    for group in groups:
        for members in group.cells.values():
            for cell in members.values():
                write_cell(folder / RESULTS, cell.result, cell.items, hashes_apart=True)
    write_text(folder / CAPTION, caption.strip() + "\n")
    leaderboard = of_groups(groups, caption_of(folder))
    write_leaderboard(folder / BOARD, leaderboard)
    return leaderboard


def plan(folder: str | Path) -> list[Upload]:
    """What would be uploaded; LorafuseError when the folder is no published board or does not verify.

    Texts of the evaluated data stay at home: samples are never among the files.
    """
    folder = Path(folder)
    if not (folder / BOARD).is_file():
        raise LorafuseError(f"{folder}: no {BOARD}. Give a folder with {BOARD} and its results/.")
    problems = verify(folder).problems
    if problems:
        raise LorafuseError(problems[0])
    return hub.files_of(folder, travels=_travels)


def _travels(name: Path) -> bool:
    hidden = any(part.startswith(".") for part in name.parts)  # such as answers of cells that are not done
    return not hidden and not name.name.endswith(SUFFIX)


def publish(folder: str | Path, repo: str, message: str = "Leaderboard") -> str:
    """Upload in one commit and return its address; see hub.py for token and address of the hub."""
    return hub.put(repo, plan(folder), message, "dataset")
