"""Putting a published folder on the Hugging Face hub, as a data set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.samples import SUFFIX
from lorafuse_bench.leaderboards.verify import BOARD, verify


@dataclass(frozen=True)
class Upload:
    """One file: where it lies, what it is called in the repository, how large it is."""

    path: Path
    name: str
    size: int


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
