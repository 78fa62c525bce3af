"""Finding methods by name and making them from text options."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import typing
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from lorafuse_bench import fusion
from lorafuse_bench.errors import LorafuseError, unknown
from lorafuse_bench.fusion.base import FusionMethod

ENTRY_POINTS = "lorafuse.methods"
_METHODS: dict[str, type[FusionMethod]] = {}


M = TypeVar("M", bound=FusionMethod)


def register(cls: type[M]) -> type[M]:
    """Class decorator: make a method selectable by its `name`. Two methods of one name are refused."""
    known = _METHODS.setdefault(cls.name, cls)
    if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise LorafuseError(
            f"method '{cls.name}' is defined by {known.__module__} and {cls.__module__}. Rename one."
        )
    return cls


@cache
def methods() -> Mapping[str, type[FusionMethod]]:
    """All methods by name: every file under fusion/, and the entry points `lorafuse.methods`."""
    for module in pkgutil.walk_packages(fusion.__path__, fusion.__name__ + "."):
        importlib.import_module(module.name)
    for entry in entry_points(group=ENTRY_POINTS):
        _load(entry)
    return dict(sorted(_METHODS.items()))


def _load(entry: EntryPoint) -> None:
    """Import a third party's entry point: a method class, or a module that registers its methods."""
    try:
        loaded = entry.load()
        if isinstance(loaded, type):
            register(loaded)
    except LorafuseError:
        raise
    except Exception as error:  # whatever a foreign module raises, the user needs its name
        raise LorafuseError(
            f"entry point '{entry.name}' ({entry.value}) of group '{ENTRY_POINTS}' cannot be loaded:"
            f" {type(error).__name__}: {error}. Repair or uninstall that package."
        ) from error


def create(name: str, options: Mapping[str, Any] | None = None) -> FusionMethod:
    """The method `name` with `options` (text or typed values); LorafuseError lists what is possible."""
    known = methods()
    if name not in known:
        raise unknown("method", name, known)
    cls = known[name]
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in (options or {}).items():
        if key not in fields:
            raise unknown(f"option of method '{name}'", key, fields)
        values[key] = _convert(name, key, value, hints[key])
    try:
        return cls(**values)
    except ValueError as error:
        raise LorafuseError(f"method '{name}': {error}") from error


def parse(spec: str) -> FusionMethod:
    """A method from `name` or `name:option=value+option=value`; a bare option means true."""
    name, _, tail = spec.partition(":")
    options: dict[str, Any] = {}
    for part in tail.split("+") if tail else ():
        key, has_value, value = part.partition("=")
        options[key] = value if has_value else True
    return create(name, options)


def parse_all(specs: str) -> list[FusionMethod]:
    """The methods of specs separated by commas; LorafuseError has a line for each that is wrong."""
    found, errors = [], []
    for spec in specs.split(","):
        try:
            found.append(parse(spec.strip()))
        except LorafuseError as error:
            errors.append(str(error))
    if errors:
        raise LorafuseError("\n".join(errors))
    return found


def _convert(method: str, key: str, value: Any, hint: Any) -> Any:
    if isinstance(value, str) and value.lower() in ("none", "null"):
        value = None
    convert: Callable[[Any], Any] = TypeAdapter(hint).validate_python
    try:
        return convert(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise LorafuseError(f"method '{method}': option {key}={value!r}: {reason}.") from error
