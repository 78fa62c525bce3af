"""Writing files so that an interruption never leaves half of one, and hashing them."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from lorafuse_bench.errors import LorafuseError


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to a temporary name beside `path`, then rename it into place.

    Raises LorafuseError when the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            # mkstemp makes files private; an output file follows the user's umask instead.
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise LorafuseError(f"cannot write {path}: {reason}. Choose a folder you can write to.") from error


def write_text(path: Path, content: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Write `content` as sorted, indented JSON with a final newline; NaN and inf are refused."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_files(folder: Path, pattern: str) -> str:
    """Hex sha256 over the sorted (name, sha256) pairs of the files in `folder` matching `pattern`."""
    lines = [f"{p.name} {sha256_file(p)}" for p in sorted(folder.glob(pattern))]
    if not lines:
        raise LorafuseError(f"no {pattern} in {folder}: nothing to hash. Check the folder.")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
