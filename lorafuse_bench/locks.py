"""File locks that end with their process, so that none is ever stale.

`flock` is the kernel's: it lets go when the process ends, however it ends, on this machine or on another
that shares the folder. Where a file system or a platform has no such locks, nothing is locked.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

UNFINISHED = ".part"
"""Ends the name of a file or folder that is being written."""
LOCK = ".lock"
"""Ends the name of a lock file."""
_LOOK = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)
"""Opens a pipe too without waiting for somebody who writes to it."""


@contextmanager
def held(path: Path, wait: bool = False) -> Iterator[bool]:
    """Hold the lock file `path` inside the context, which gets False where another process holds it.

    With `wait` it is held in any case, as soon as the other one lets go.
    """
    descriptor = _open_locked(path, wait)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            path.unlink(missing_ok=True)  # before letting go: whoever waits for it must find it gone
            os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock file `path` now."""
    try:
        descriptor = os.open(path, _LOOK)
    except FileNotFoundError:
        return False
    try:
        return try_lock(descriptor) is False
    finally:
        os.close(descriptor)


def try_lock(descriptor: int, wait: bool = False) -> bool | None:
    """Lock an open file or folder: True when it is ours now, False when another's, None where nothing locks."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def same_file(path: Path, descriptor: int) -> bool:
    """Whether `path` still names the open file: another process may have removed it before it was locked."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def sweep(folder: Path) -> None:
    """Remove from `folder` what killed processes left: unfinished files and folders, and lock files."""
    with suppress(OSError):
        for entry in list(folder.iterdir()):
            if entry.name.startswith(".") and entry.name.endswith((UNFINISHED, LOCK)):
                _remove_unless_held(entry)


def _remove_unless_held(path: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(path, _LOOK)
        try:
            if try_lock(descriptor):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        finally:
            os.close(descriptor)


def _open_locked(path: Path, wait: bool) -> int | None:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if try_lock(descriptor, wait) is False:
            os.close(descriptor)
            return None
        if same_file(path, descriptor):
            return descriptor
        os.close(descriptor)
