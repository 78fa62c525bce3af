"""Where the files of a base model are: a folder, lorafuse's cache, or the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.hub import fetch
from lorafuse_bench.zoo.hashes import BESIDE, WEIGHTS
from lorafuse_bench.zoo.installed import EMBEDDED, embedded_root

_OWNER_AND_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def cache_root() -> Path:
    """Where lorafuse keeps what it made: `$LORAFUSE_CACHE`, or `lorafuse` in the user's cache folder."""
    own = os.environ.get("LORAFUSE_CACHE")
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(user) / "lorafuse"


def cached_base(sha256: str) -> Path:
    """Folder of the cache for the base with these weights, whether it is there or not."""
    return cache_root() / "bases" / sha256[:16]


def is_hub_id(path: str) -> bool:
    """Whether a manifest's path reads as `owner/name`; an id without an owner reads as a folder."""
    return _OWNER_AND_NAME.fullmatch(path) is not None


def local_model(
    folder: Path, repo: str, revision: str | None = None, patterns: Sequence[str] = (WEIGHTS, *BESIDE)
) -> Path:
    """`folder` if it exists, else the embedded zoo's base for `mini`, else a snapshot of the hub's `repo`.

    patterns: the files of the snapshot.
    """
    if folder.is_dir():
        return folder
    if repo == EMBEDDED:
        return embedded_root() / "base"
    return download(repo, revision, patterns)


def download(
    repo: str,
    revision: str | None = None,
    patterns: Sequence[str] = (WEIGHTS, *BESIDE),
    kind: str = "base model",
) -> Path:
    """Local snapshot of a hub model, of the files of these patterns; LorafuseError when it cannot be had."""
    try:
        return fetch(repo, revision, patterns)
    except LorafuseError as error:
        raise LorafuseError(f"{kind} '{repo}' is not a folder, and {error}") from error


def hub_zoo(name: str) -> Path | None:
    """Folder of the zoo that the hub has as `owner/name`, or `owner/name@revision`; None where `name` is no such.

    Once for a process; LorafuseError where the hub does not give it.
    """
    repo, _, revision = name.partition("@")
    return _hub_zoo(repo, revision or None) if is_hub_id(repo) else None


@cache
def _hub_zoo(repo: str, revision: str | None) -> Path:
    return fetch(repo, revision)
