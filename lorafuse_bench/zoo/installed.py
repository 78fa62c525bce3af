"""Zoos that came with a package: the embedded one, and those declared as entry points.

A package declares a zoo in the group `lorafuse.zoos`; the value is a module or package whose folder holds
manifest.json, or a function that returns that folder.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from pathlib import Path

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import check_writable

EMBEDDED = "mini"
ENTRY_POINTS = "lorafuse.zoos"


def embedded_root() -> Path:
    """Directory of the zoo shipped in the package."""
    return Path(str(files("lorafuse_bench.zoo"))) / EMBEDDED


def installed_zoos() -> Iterator[str]:
    """Names of the installed zoos, the embedded one first."""
    yield EMBEDDED
    yield from sorted({entry.name for entry in entry_points(group=ENTRY_POINTS)} - {EMBEDDED})


def installed_root(name: str) -> Path | None:
    """Directory of an installed zoo; None where no package brings one of this name."""
    if name == EMBEDDED:
        return embedded_root()
    found = list(entry_points(group=ENTRY_POINTS, name=name))
    if len({entry.value for entry in found}) > 1:
        packages = " and ".join(str(entry.dist and entry.dist.name) for entry in found)
        raise LorafuseError(f"zoo '{name}' is brought by {packages}. Uninstall one of them.")
    return _folder(found[0]) if found else None


def writable(out: str | Path) -> Path:
    """The folder `out` to write a zoo to. A folder goes before an installed zoo of its name, except for `mini`.

    LorafuseError where it lies in an installed zoo or the hub's cache, would be read as the embedded zoo, or nothing
    can be written.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    path = Path(out).resolve()
    if path.is_relative_to(Path(HF_HUB_CACHE).resolve()):
        raise LorafuseError(
            f"{path} is the hub's copy of a zoo, and read-only. Copy it and name the copy:"
            f" lorafuse zoo copy {shlex.quote(str(path))} DIR"
        )
    for name in installed_zoos():
        if str(out) == name == EMBEDDED or _is_within(path, name):
            raise _read_only(name)
    check_writable(Path(out))
    return Path(out)


def check_own(zoo: Path) -> None:
    """LorafuseError where something is added to the zoo `zoo`, which is no folder, but a package brings one."""
    if not zoo.exists() and str(zoo) in installed_zoos():
        raise _read_only(str(zoo))


def _read_only(name: str) -> LorafuseError:
    return LorafuseError(
        f"zoo '{name}' belongs to an installed package and is read-only. Name another folder; to add to a copy of it:"
        f" lorafuse zoo copy {name} DIR"
    )


def _is_within(path: Path, name: str) -> bool:
    try:
        root = installed_root(name)
    except LorafuseError:  # a package out of order keeps nobody from writing elsewhere
        return False
    return root is not None and path.is_relative_to(root.resolve())


def _folder(entry: EntryPoint) -> Path:
    try:
        loaded = entry.load()
        if callable(loaded):
            return Path(loaded())
        return Path(loaded.__file__).parent if loaded.__file__ else Path(next(iter(loaded.__path__)))
    except Exception as error:  # whatever a foreign module raises, the user needs its name
        raise LorafuseError(
            f"entry point '{entry.name}' ({entry.value}) of group '{ENTRY_POINTS}' gives no folder:"
            f" {type(error).__name__}: {error}. Repair or uninstall that package."
        ) from error
