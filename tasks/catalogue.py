"""The files of tasks and suites by the name that each gives itself, found without loading lm-eval.

They are searched for, the first that has a name winning, in: what LORAFUSE_TASKS lists (folders and patterns such
as `dir/*.yaml`, separated as in PATH; `--include-path` adds to it); packages' folders, by the entry-point group
`lorafuse.tasks`; our own; and lm-eval's. A folder's files are scanned for the line that names them, which takes a
quarter of a second for lm-eval's 13,986 where its own index takes 13 seconds.
"""

from __future__ import annotations

import copy
import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, lru_cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import read_bytes, regular
from lorafuse_bench.yaml_files import parse

VARIABLE = "LORAFUSE_TASKS"
ENTRY_POINTS = "lorafuse.tasks"
_NAME = re.compile(
    rb"^[\"']?(task|group)[\"']?:[^\S\n]*([\"']?)([^\s\"'#\[{][^\n\"'#]*?)\2[^\S\n]*(?:#.*)?$", re.M
)
_SKIPPED = {"__pycache__", ".ipynb_checkpoints"}
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class File(NamedTuple):
    """A YAML file that names a task, or a group of tasks."""

    name: str
    group: bool
    path: Path
    again: Path | None = None
    """Another file of the same place that has the name too."""


def include(paths: Iterable[str | Path]) -> None:
    """Search these folders or patterns too, in this process and those that it starts, before all others."""
    added = [str(Path(path).absolute()) for path in paths]
    if missing := _absent(added):
        raise LorafuseError(
            f"no folder {missing[0]} to search for tasks. Check --include-path and {VARIABLE}."
        )
    if split := [path for path in added if os.pathsep in path]:
        raise LorafuseError(
            f"{split[0]}: '{os.pathsep}' separates folders in {VARIABLE}. Rename that folder."
        )
    known = [path for path in _included() if path not in added]
    os.environ[VARIABLE] = os.pathsep.join([*added, *known])


def absent() -> list[str]:
    """What LORAFUSE_TASKS lists and is not there."""
    return _absent(_included())


def _absent(paths: Iterable[str]) -> list[str]:
    return [path for path in paths if not (Path(path).is_dir() or glob.glob(path))]


def forget() -> None:
    """Look for files again, and read them again, when they are next asked for: they may have been edited."""
    _scan.cache_clear()
    tagged.cache_clear()


def places() -> tuple[str, ...]:
    """Folders and patterns that are searched before lm-eval's, first come first served."""
    return (*_included(), *packaged(), str(Path(__file__).parent))


def find(name: str) -> File | None:
    """The file that calls itself `name`; None where there is none."""
    for place in places():
        if name in (found := _scan(place)):
            return found[name]
    return _scan(str(lm_eval_folder())).get(name)


@cache
def tagged(name: str) -> tuple[File, ...]:
    """The tasks that bear a tag of lm-eval's, by name; it reads every file there is, which takes a second."""
    word, found = name.encode(), dict[str, File]()
    for place in () if not name else (*places(), str(lm_eval_folder())):
        for file in _scan(place).values():
            if not file.group and word in (content := file.path.read_bytes()) and b"tag" in content:
                said = read(file.path).get("tag") or ()
                if name in ([said] if isinstance(said, str) else said):
                    found.setdefault(file.name, file)
    return tuple(found[each] for each in sorted(found))


def ours() -> dict[str, File]:
    """All files by name but lm-eval's."""
    return {name: file for place in reversed(places()) for name, file in _scan(place).items()}


def names() -> set[str]:
    """Every name there is, lm-eval's included."""
    return {*ours(), *_scan(str(lm_eval_folder()))}


@cache
def lm_eval_folder() -> Path:
    """Where lm-eval keeps its own tasks."""
    spec = find_spec("lm_eval")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).resolve().parent / "tasks"


@cache
def packaged() -> tuple[str, ...]:
    """Folders of the entry points `lorafuse.tasks`; each names a package whose folder holds task files."""
    found: list[str] = []
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            spec = find_spec(entry.value)
            found += list((spec and spec.submodule_search_locations) or [])
            if not (spec and spec.submodule_search_locations):
                raise ImportError("no such package")
        except Exception as error:  # whatever a foreign package raises, the user needs its name
            raise LorafuseError(
                f"entry point '{entry.name}' ({entry.value}) of group '{ENTRY_POINTS}' names no package with a"
                f" folder: {type(error).__name__}: {error}. Repair or uninstall that package."
            ) from error
    return tuple(found)


def config(file: File) -> dict[str, Any]:
    """`read` of a file found by its name; LorafuseError where another beside it has that name, but for lm-eval's."""
    if file.again and not file.path.is_relative_to(lm_eval_folder()):
        raise LorafuseError(f"'{file.name}' is defined by {file.path} and by {file.again}. Rename one.")
    return read(file.path)


def read(path: Path) -> dict[str, Any]:
    """A task's YAML with what it includes, functions as their text; LorafuseError where it is none."""
    return _read(path.resolve(), ())


@lru_cache(4096)
def _parsed(content: bytes, once: bool) -> Any:
    """The YAML in a file; the same few files are asked for thousands of times. Callers must not change it."""
    return parse(content, _Loader, once)


def _read(path: Path, inside: tuple[Path, ...]) -> dict[str, Any]:
    try:
        theirs = path.is_relative_to(lm_eval_folder())  # some keys of lm-eval's own stand twice
        found = copy.deepcopy(_parsed(regular(path, "Remove it.").read_bytes(), once=not theirs))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise LorafuseError(f"{path}: not readable YAML: {reason}. Correct the file.") from error
    if not isinstance(found, dict):
        raise LorafuseError(f"{path}: not a task or suite: expected `key: value` lines. Correct the file.")
    if path in inside:
        raise LorafuseError(f"{path}: includes itself. Correct the file.")
    parts = found.pop("include", [])
    merged: dict[str, Any] = {}
    for part in parts if isinstance(parts, list) else [parts]:
        merged |= _read((path.parent / str(part)).resolve(), (*inside, path))
    return merged | found


class _Loader(_LOADER):  # type: ignore[misc, valid-type]
    """YAML with lm-eval's tag `!function`, whose text is kept."""


_Loader.add_constructor("!function", lambda loader, node: f"!function {node.value}")


def _included() -> list[str]:
    return [path for path in os.environ.get(VARIABLE, "").split(os.pathsep) if path]


def _files(place: str) -> Iterator[Path]:
    if not os.path.isdir(place):
        yield from sorted(Path(path) for path in glob.glob(place))
        return
    for folder, below, found in os.walk(place):
        below[:] = sorted(set(below) - _SKIPPED)
        yield from (Path(folder, name) for name in sorted(found) if name.endswith(".yaml"))


@cache
def _scan(place: str) -> Mapping[str, File]:
    """The files of a folder or pattern by name; of two with one name the first, which tells the other."""
    found: dict[str, File] = {}
    for path in _files(place):
        for kind, _, name in _NAME.findall(read_bytes(path, "Remove it.")):
            text = name.decode(errors="replace").strip()
            first = found.setdefault(text, File(text, kind == b"group", path))
            if first.path != path:
                found[text] = first._replace(again=path)
    return found
