"""Writing files so that an interruption never leaves half of one, and hashing them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lorafuse_bench.errors import LorafuseError


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to a temporary name beside `path`, then rename it into place.

    Raises LorafuseError when the folder cannot be written.
    """
    with _writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            # mkstemp makes files private; an output file follows the user's umask instead.
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def write_text(path: Path, content: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Write `content` as sorted, indented JSON with a final newline; NaN and inf are refused."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` to fill; renamed to `path` at the end, removed after an exception.

    Raises LorafuseError when `path` exists and is not an empty folder, or cannot be written.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise LorafuseError(f"{path} exists and is not empty. Name another folder, or remove it first.")
    with _writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        with _writable(path):
            temporary.chmod(0o777 & ~_umask())  # mkdtemp makes folders private
            os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise LorafuseError(f"cannot write {path}: {reason}. Choose a folder you can write to.") from error


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


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
