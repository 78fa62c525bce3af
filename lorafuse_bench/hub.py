"""The Hugging Face hub: downloads, uploads, and one line for whatever the hub refuses.

Tokens are huggingface_hub's own (HF_TOKEN, `hf auth login`), as is the hub's address (HF_ENDPOINT).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import check_links
from lorafuse_bench.zoo.hashes import BESIDE, WEIGHTS

CARRIED = (WEIGHTS, *BESIDE, "*.parquet", "*.md")
"""What is downloaded: weights (no pickles), the files read beside them, rows, cards."""
LOG_IN = "Set HF_TOKEN, or run `hf auth login`."


@dataclass(frozen=True)
class Upload:
    """One file: what it is called in the repository, and its content or where that lies."""

    name: str
    content: Path | bytes

    @property
    def size(self) -> int:
        """Bytes."""
        return self.content.stat().st_size if isinstance(self.content, Path) else len(self.content)


def fetch(repo: str, revision: str | None = None, patterns: Sequence[str] = CARRIED) -> Path:
    """A folder with the files of `repo` at `revision` that `patterns` match, which the hub's cache keeps.

    Files that were fetched before an interruption stay. LorafuseError says in one line why it cannot be had.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(patterns)))
    except (
        Exception
    ) as error:  # name, network, permission, disk: huggingface_hub has no common class for them
        raise LorafuseError(
            f"'{repo}' cannot be fetched from the hub: {reason(error, repo, revision)}"
        ) from error


def carried(name: Path) -> bool:
    """Whether a file of a zoo or an export travels, by its name in its folder."""
    hidden = any(part.startswith((".", "__")) for part in name.parts)
    return not hidden and any(fnmatch.fnmatch(name.name, pattern) for pattern in CARRIED)


def files_of(
    folder: Path,
    changed: Callable[[Path], bytes | None] = lambda path: None,
    travels: Callable[[Path], bool] = carried,
) -> list[Upload]:
    """What is uploaded of a folder: the files whose name in it `travels`; `changed` may give one another content.

    LorafuseError for a link that leads out of the folder.
    """
    names = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    found = {name: folder / name for name in names if travels(name)}
    check_links(folder, found.values())
    return [Upload(name.as_posix(), changed(path) or path) for name, path in found.items()]


def put(
    repo: str, uploads: Iterable[Upload], message: str, repo_type: str = "model", private: bool = False
) -> str:
    """Upload in one commit to `repo`, made where it is not there, and return the commit's address."""
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    if get_token() is None:
        raise LorafuseError(f"no token of the hub. {LOG_IN}")
    api = HfApi()
    operations = [CommitOperationAdd(path_in_repo=u.name, path_or_fileobj=u.content) for u in uploads]
    try:
        api.create_repo(repo, repo_type=repo_type, exist_ok=True, private=private or None)
        done = api.create_commit(repo, operations, commit_message=message, repo_type=repo_type)
    except Exception as error:  # network, authentication, a bad name
        raise LorafuseError(f"cannot publish to '{repo}': {reason(error, repo)}") from error
    return str(done.commit_url)


def reason(error: BaseException, repo: str, revision: str | None = None) -> str:
    """What the hub's refusal means, and what to do about it."""
    from huggingface_hub import errors

    chain = _chain(error)
    status = next(
        (s for e in chain if (s := getattr(getattr(e, "response", None), "status_code", None))), None
    )
    if _any(chain, errors.GatedRepoError):
        return f"it is gated. Ask for access on its page, then let us know you: {LOG_IN}"
    if _any(chain, errors.RevisionNotFoundError):
        return f"it has no revision '{revision}'. Name a branch, a tag or a commit of it."
    if _any(chain, errors.RepositoryNotFoundError):
        return f"there is no such repository, or it is private. Check the name; for a private one: {LOG_IN}"
    if status in (401, 403):
        return f"the hub answers {status}: this token has no permission for it. Use one that has. {LOG_IN}"
    if _any(chain, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, and the cache does not hold it. Unset it, or name a folder."
    if isinstance(error, errors.HFValidationError):
        return "that is not the name of a repository. Write OWNER/NAME."
    said = " ".join(str(error).split())[:200].rstrip(".")
    return f"{type(error).__name__}: {said}. Check the connection; the same command goes on from there."


def _chain(error: BaseException | None) -> list[Any]:
    """An error and what it was raised from."""
    found: list[Any] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _any(chain: Sequence[Any], kind: type[BaseException]) -> bool:
    return any(isinstance(error, kind) for error in chain)
