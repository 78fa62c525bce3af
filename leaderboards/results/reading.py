"""Reading files that strangers wrote: regular files of a bounded size, and JSON of a sane depth."""

from __future__ import annotations

import json
import stat
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lorafuse_bench.errors import LorafuseError

MOST_JSON = 1 << 26
"""Bytes of the largest result, leaderboard or caption; a result of a hundred tasks takes 100 kB."""
MOST_TEXT = 1 << 31
"""Bytes of the largest file of texts, such as lm-eval's samples."""
MOST_INFLATED = 1 << 28
"""Bytes that a compressed sidecar may hold, whatever the result beside it says: 5 million scored items."""


def read_bytes(path: Path, most: int = MOST_JSON, advice: str = "Give a file that is there.") -> bytes:
    """A regular file's content; LorafuseError, naming it, for anything else and for more than `most` bytes."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise LorafuseError(f"{path}: not a regular file. {advice}")
        with path.open("rb") as file:
            content = file.read(most + 1)
    except (OSError, ValueError) as error:  # a name may hold what no name may
        reason = getattr(error, "strerror", None) or str(error)
        raise LorafuseError(f"{path}: cannot be read: {reason}. {advice}") from error
    if len(content) > most:
        raise LorafuseError(f"{path}: more than {most:,} bytes, which no such file has. Move it away.")
    return content


def read_text(path: Path, most: int = MOST_TEXT) -> str:
    """A regular file's UTF-8 text."""
    try:
        return read_bytes(path, most).decode()
    except UnicodeDecodeError as error:
        raise LorafuseError(f"{path}: not UTF-8 text (byte {error.start}). Write it again.") from error


def read_json(path: Path, again: str, parse: Callable[[str], Any] = json.loads) -> Any:
    """A JSON file's content; `again` says what to do where it is none."""
    return parsed(path, read_bytes(path), again, parse)


def parsed(
    path: Path | str, content: bytes | str, again: str, parse: Callable[[str], Any] = json.loads
) -> Any:
    """JSON of a file's content; LorafuseError where it is nested too deep, not UTF-8, or `parse` refuses it."""
    try:
        return parse(content if isinstance(content, str) else content.decode())
    except RecursionError as error:
        raise LorafuseError(f"{path}: nested too deep to be read as JSON. {again}") from error
    except ValueError as error:
        raise LorafuseError(f"{path}: cannot be read as JSON: {error}. {again}") from error


def inflate(path: Path, most: int, again: str) -> bytes:
    """A gzip file's content of at most `most` bytes, and never more than MOST_INFLATED.

    No more than that is ever in memory: a small file may inflate to any size.
    """
    most = min(most, MOST_INFLATED)
    stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        content = stream.decompress(read_bytes(path, MOST_INFLATED), most + 1)
    except zlib.error as error:
        raise LorafuseError(f"{path}: cannot be read: {error}. {again}") from error
    if len(content) > most:
        raise LorafuseError(
            f"{path}: inflates to more than the {most:,} bytes that can belong there. {again}"
        )
    if not stream.eof or stream.unused_data:
        raise LorafuseError(f"{path}: cannot be read: not one whole gzip file. {again}")
    return content
