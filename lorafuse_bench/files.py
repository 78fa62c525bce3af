"""Files: written so that neither an interruption nor a power cut leaves half of one, read with one line for
what is wrong with them, and hashed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.locks import UNFINISHED, same_file, sweep, try_lock

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FREE_SPACE = "Free some space; the same command goes on from what is finished."
# A line break never stands inside a JSON string, so only lists are matched.
_NUMBERS = re.compile(r"\[((?:\n +-?\d[\d.eE+-]*,?)+)\n *\]")
_JSON_DEPTH = 64
_JSON_BYTES = 256 * 2**20


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to a temporary name beside `path`, then rename it into place; both are on the disk after.

    Raises LorafuseError when the folder cannot be written.
    """
    with _writable(path):
        _make_folder(path.parent)
        handle, temporary = _temporary_file(path)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                # mkstemp makes files private; an output file follows the user's umask instead.
                os.chmod(temporary, 0o666 & ~_umask())
                os.fsync(file.fileno())
                os.replace(temporary, path)
            _sync(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_text(path: Path, content: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Write `content` as sorted, indented JSON, a list of numbers on one line; NaN and inf are refused."""
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
    write_text(path, _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text) + "\n")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` to fill; renamed to `path` at the end, removed after an exception.

    Raises LorafuseError when `path` exists and is not an empty folder, or cannot be written.
    """
    check_free(path)
    with working_folder(path) as temporary:
        yield temporary
        move_folder(temporary, path)


@contextmanager
def working_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, removed at the end unless it was moved; a killed process's goes with the next.

    Raises LorafuseError when it cannot be written.
    """
    with _writable(path):
        _make_folder(path.parent)
        handle, temporary = _temporary_folder(path)
        temporary.chmod(0o777 & ~_umask())  # mkdtemp makes folders private
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(handle)


def move_folder(ready: Path, path: Path) -> None:
    """Rename a finished folder to `path`, whose parents are made, with all that it holds on the disk before.

    Raises LorafuseError when `path` cannot be written, or is a folder that is not empty.
    """
    with _writable(path):
        _make_folder(path.parent)
        for entry in (*ready.rglob("*"), ready):
            _sync(entry)
        os.replace(ready, path)
        _sync(path.parent)


def check_free(path: Path) -> None:
    """LorafuseError unless `path` is free for a new folder: nothing is there, or an empty folder."""
    with _writable(path):
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise LorafuseError(f"{path} exists and is not empty. Name another folder, or remove it first.")


def check_writable(folder: Path) -> None:
    """LorafuseError unless files can be written to `folder`, which need not exist yet. Nothing is left there."""
    with _writable(folder):
        while not folder.exists():
            if folder.is_symlink():
                raise LorafuseError(f"cannot write {folder}: it is a link to what is not there. Remove it.")
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0")
            probe.flush()
            os.fsync(probe.fileno())


def check_file_writable(path: Path) -> None:
    """LorafuseError unless the file `path` can be written; its folder need not exist yet."""
    with _writable(path):
        if path.is_dir():
            raise LorafuseError(f"cannot write {path}: it is a folder. Name a file.")
    check_writable(path.parent)


def read_bytes(path: Path, remedy: str) -> bytes:
    """The content of a regular file; a missing, unreadable or special one is a LorafuseError ending in `remedy`."""
    try:
        return regular(path, remedy).read_bytes()
    except OSError as error:
        raise LorafuseError(f"{path} cannot be read: {error.strerror or error}. {remedy}") from error


def regular(path: Path, remedy: str) -> Path:
    """The path of a regular file; LorafuseError for a pipe, a socket or a device, which would be waited for."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise LorafuseError(f"{path} is not a regular file. {remedy}")
    return path


def regular_files(folder: Path, pattern: str) -> list[Path]:
    """The files in `folder` matching `pattern` by name; LorafuseError where one is not `regular`."""
    return [regular(path, "Remove it.") for path in sorted(folder.glob(pattern))]


def strict_json(text: str) -> Any:
    """What JSON of our own formats holds.

    ValueError where it is none, and where a name stands twice in an object, a number is NaN or infinite, or a text
    holds half a character: readers disagree on these.
    """
    value = json.loads(text, object_pairs_hook=_named_once)
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except ValueError as error:
        raise ValueError(next(_faults(value, ""), str(error))) from error
    return value


def check_links(folder: Path, paths: Iterable[Path]) -> None:
    """LorafuseError where one of the paths in `folder` is, or lies behind, a link that leads out of it.

    The hub's cache keeps the files of a repository elsewhere in itself; links to these stay inside.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    inside = [os.path.realpath(place) for place in (folder, HF_HUB_CACHE)]
    for path in paths:
        real = Path(os.path.realpath(path))
        if not any(real.is_relative_to(place) for place in inside):
            raise LorafuseError(
                f"{path} leads to {real}, outside of {folder}, and would go along. Remove the link, or put a copy in"
                " its place."
            )


def read_json(path: Path, remedy: str, parse: Callable[[str], Any] = json.loads) -> dict[str, Any]:
    """The JSON object in a file; LorafuseError ending in `remedy` for anything else.

    Refused: what `read_bytes` and `parse` refuse, other encodings than UTF-8, more than 256 MiB, nesting beyond 64
    levels, and a list or a plain value.
    """
    content = read_bytes(path, remedy)
    if len(content) > _JSON_BYTES:
        raise LorafuseError(f"{path} is not JSON of ours: {len(content)} bytes are too many. {remedy}")
    try:
        value = parse(content.decode())
    except RecursionError:
        raise LorafuseError(f"{path} is not JSON of ours: it is nested too deeply. {remedy}") from None
    except ValueError as error:  # of JSON or of UTF-8
        raise LorafuseError(f"{path} is not JSON: {error}. {remedy}") from error
    if not isinstance(value, dict):
        raise LorafuseError(
            f"{path} holds a {type(value).__name__} where a JSON object {{...}} is due. {remedy}"
        )
    if _deeper(value, _JSON_DEPTH):
        raise LorafuseError(f"{path} is not JSON of ours: it is nested too deeply. {remedy}")
    return value


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_files(folder: Path, pattern: str) -> str:
    """Hex sha256 over the sorted (name, sha256) pairs of the files in `folder` matching `pattern`."""
    lines = [f"{p.name} {sha256_file(p)}" for p in regular_files(folder, pattern)]
    if not lines:
        raise LorafuseError(f"no {pattern} in {folder}: nothing to hash. Check the folder.")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = FREE_SPACE if error.errno in NO_SPACE else "Choose a folder you can write to."
        raise LorafuseError(f"cannot write {path}: {reason}. {remedy}") from error


def _temporary_file(path: Path) -> tuple[int, Path]:
    """An open file beside `path`, locked so that another process's sweep leaves it."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=UNFINISHED)
        try_lock(handle)
        if same_file(Path(name), handle):
            return handle, Path(name)
        os.close(handle)  # swept before it was locked


def _temporary_folder(path: Path) -> tuple[int, Path]:
    """What holds the lock of a folder beside `path`, and that folder."""
    while True:
        name = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=UNFINISHED))
        with suppress(FileNotFoundError):  # swept before it was locked
            handle = os.open(name, os.O_RDONLY)
            try_lock(handle)
            if same_file(name, handle):
                return handle, name
            os.close(handle)


def _make_folder(folder: Path) -> None:
    """Make a folder with its parents, on the disk, and clear it of what killed processes left in it."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(new):
        _sync(path.parent)
    _sweep_once(folder.absolute())


@cache
def _sweep_once(folder: Path) -> None:
    sweep(folder)


def _sync(path: Path) -> None:
    """Have the disk hold a file's content, or a folder's names, before going on."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    found = dict(pairs)
    if len(found) < len(names):
        raise ValueError(f"{max(names, key=names.count)!r} stands twice in one object")
    return found


def _faults(value: Any, where: str) -> Iterator[str]:
    """The places of numbers and texts that JSON cannot hold, names of fields included."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _faults(key, where)
            yield from _faults(inner, f"{where}.{key}".lstrip("."))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _faults(inner, f"{where}.{place}".lstrip("."))
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{where} is {value}"
    elif isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        yield f"{where} holds half a character"


def _deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested in more than so many levels."""
    layer = [value]
    for _ in range(levels):
        if not layer:
            break
        layer = [
            inner
            for outer in layer
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    return bool(layer)
