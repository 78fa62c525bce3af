"""Published boards: packing results into a folder that others can check, and putting it on the hub."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import write_text
from lorafuse_bench.leaderboards.board import Leaderboard, write_leaderboard
from lorafuse_bench.leaderboards.builder import build
from lorafuse_bench.leaderboards.cell_files import write_cell
from lorafuse_bench.leaderboards.collect import collect
from lorafuse_bench.leaderboards.samples import SUFFIX
from lorafuse_bench.leaderboards.verify import BOARD, CAPTION, RESULTS, caption_of, verify


@dataclass(frozen=True)
class Upload:
    """One file: where it lies, what it is called in the repository, how large it is."""

    path: Path
    name: str
    size: int


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
    for group in collect(paths, allow_limit):
        for members in group.cells.values():
            for cell in members.values():
                write_cell(folder / RESULTS, cell.result, cell.items, hashes_apart=True)
    write_text(folder / CAPTION, caption.strip() + "\n")
    leaderboard = build([folder / RESULTS], allow_limit, caption_of(folder))
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
    return list(_uploads(folder))


def _uploads(folder: Path) -> Iterable[Upload]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not path.name.startswith(".") and not path.name.endswith(SUFFIX):
            yield Upload(path, name, path.stat().st_size)


def publish(folder: str | Path, repo: str, message: str = "Leaderboard") -> str:
    """Upload in one commit and return its address. The token comes from HF_TOKEN or `hf auth login`.

    The hub's address is huggingface_hub's own (HF_ENDPOINT).
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    uploads = plan(folder)
    if get_token() is None:
        raise LorafuseError("no token of the hub. Set HF_TOKEN, or run `hf auth login`.")
    api = HfApi()
    operations = [CommitOperationAdd(path_in_repo=u.name, path_or_fileobj=u.path) for u in uploads]
    try:
        api.create_repo(repo, repo_type="dataset", exist_ok=True)
        done = api.create_commit(repo, operations, commit_message=message, repo_type="dataset")
    except Exception as error:  # network, authentication, a bad name: all need the same advice
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise LorafuseError(f"cannot publish to '{repo}': {reason}. Check the name and the token.") from error
    return str(done.commit_url)
