"""Hashes of a published folder's documents, once for all its cells: `documents/<docs_sha256>.txt.gz`.

Hashes do not compress, and every method of a board has the same ones: in each cell, they would be nearly
all of a board's bytes. A file is named by the sha256 of its content, and the results hold that name, so
neither can be exchanged unnoticed.
"""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import write_bytes
from lorafuse_bench.leaderboards.results.reading import inflate

FOLDER = "documents"
_LINE_BYTES = 512


def docs_sha256(hashes: tuple[str, ...]) -> str:
    """sha256 over the documents' hashes, in order."""
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def write_hashes(out: Path, hashes: tuple[str, ...]) -> Path:
    """Keep the hashes in a folder of results, and return their file."""
    path = out / FOLDER / f"{docs_sha256(hashes)}.txt.gz"
    if not path.is_file():
        write_bytes(path, gzip.compress("\n".join(hashes).encode(), mtime=0))
    return path


def read_hashes(out: Path, name: str, n: int) -> tuple[str, ...]:
    """The n hashes whose `docs_sha256` is `name`; LorafuseError, naming the file, where they are not those."""
    path = out / FOLDER / f"{name}.txt.gz"
    content = inflate(path, (n + 1) * _LINE_BYTES, f"Keep the folder {FOLDER} with the results.")
    hashes = tuple(content.decode(errors="replace").split("\n"))
    if docs_sha256(hashes) != name:
        raise LorafuseError(f"{path}: doc_hashes: other documents than the file's name says. Fetch it again.")
    return hashes
