"""What people add as one file: classes with a name, a docstring, a paper and typed options, found by name.

Fusion methods and analyses are kinds of such classes. Each is a frozen dataclass whose fields are `option(...)`s;
its file lies in a package of ours, or another package names it under an entry-point group.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import pkgutil
import typing
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from lorafuse_bench.definition import check_definition
from lorafuse_bench.errors import LorafuseError, unknown


def option(default: Any = dataclasses.MISSING, help: str = "") -> Any:
    """An option: a dataclass field with a one-line explanation; without a default it must be given.

    LorafuseError for a default that could be changed in place.
    """
    if type(default).__hash__ is None:
        raise LorafuseError(
            f"option '{help}' has a mutable default, {default!r}: take text, a number or None."
        )
    return dataclasses.field(default=default, metadata={"help": help})


class Named:
    """A class that can be registered."""

    name: ClassVar[str]
    paper: ClassVar[str]
    between_words: ClassVar[str] = "_"
    """What names of its kind have between words."""
    renamed: ClassVar[Mapping[str, str]] = {}
    """Names that options had before, which are still taken, to their names now."""

    @classmethod
    def summary(cls) -> str:
        """What it is, in one sentence: the first line of its docstring."""
        return (inspect.getdoc(cls) or "").partition("\n")[0]

    @classmethod
    def faults(cls) -> Iterator[str]:
        """What its kind asks beyond that and it lacks, each to be read on from its name."""
        return iter(())


_CONFIG = ConfigDict(coerce_numbers_to_str=True)
T = TypeVar("T", bound=Named)
C = TypeVar("C", bound=type[Named])


class Registry(Generic[T]):
    """The classes of one `kind`, as messages call it: every file under `package`, and the entry points of `group`.

    All derive from `parent`.
    """

    def __init__(self, kind: str, package: ModuleType, group: str, parent: type[Named] = Named) -> None:
        self.kind = kind
        self.parent = parent
        self.group = group
        self._package = package
        self._found: dict[str, type[T]] = {}
        self._complete = False

    def register(self, cls: C) -> C:
        """Class decorator: make a class selectable by its `name`.

        LorafuseError for a second class of that name, and for one that is not whole (definition.py).
        """
        check_definition(self.kind, cls, self.parent)
        known = self._found.setdefault(cls.name, cls)  # type: ignore[arg-type]
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise LorafuseError(
                f"{self.kind} '{cls.name}' is defined by {known.__module__} and {cls.__module__}. Rename one."
            )
        return cls

    def all(self) -> Mapping[str, type[T]]:
        """All classes by name."""
        if not self._complete:
            for module in pkgutil.walk_packages(self._package.__path__, self._package.__name__ + "."):
                importlib.import_module(module.name)
            for entry in entry_points(group=self.group):
                self.load(entry)
            self._complete = True
        return dict(sorted(self._found.items()))

    def load(self, entry: EntryPoint) -> None:
        """Import a third party's entry point: a class, or a module that registers its classes."""
        try:
            loaded = entry.load()
            if isinstance(loaded, type):
                self.register(loaded)
        except LorafuseError:
            raise
        except Exception as error:  # whatever a foreign module raises, the user needs its name
            raise LorafuseError(
                f"entry point '{entry.name}' ({entry.value}) of group '{self.group}' cannot be loaded:"
                f" {type(error).__name__}: {error}. Repair or uninstall that package."
            ) from error

    def named(self, name: str) -> type[T]:
        """The class called `name`; LorafuseError lists what there is."""
        known = self.all()
        if name not in known:
            raise unknown(self.kind, name, known)
        return known[name]

    def create(self, name: str, options: Mapping[str, Any] | None = None) -> T:
        """The one called `name` with `options` (text or typed values); LorafuseError lists what is possible."""
        return self.make(self.named(name), options)

    def make(self, cls: type[T], options: Mapping[str, Any] | None = None) -> T:
        """One of a class, registered or not, with `options`; LorafuseError as for `create`."""
        values, name = {}, cls.name
        fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        hints = typing.get_type_hints(cls, include_extras=True)
        for given, value in (options or {}).items():
            key = cls.renamed.get(given, given)
            if key not in fields:
                raise unknown("option", key, fields, f"of {self.kind} '{name}'")
            values[key] = self._convert(name, key, value, hints[key])
        missing = [key for key, field in fields.items() if _required(field) and key not in values]
        if missing:
            raise LorafuseError(f"{self.kind} '{name}' needs {', '.join(missing)}.")
        try:
            return cls(**values)
        except ValueError as error:
            raise LorafuseError(f"{self.kind} '{name}': {error}") from error

    def parse(self, spec: str) -> T:
        """One from `name` or `name:option=value+option=value`; a bare option means true."""
        name, _, tail = spec.partition(":")
        return self.create(name, split_options(tail))

    def _convert(self, name: str, key: str, value: Any, hint: Any) -> Any:
        if isinstance(value, str) and value.lower() in ("none", "null"):
            value = None
        try:
            # lm-eval makes numbers of all values that look like one, of an expert's name too
            found = TypeAdapter(hint, config=_CONFIG).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise LorafuseError(
                f"{self.kind} '{name}': option {key}={value!r}: {reason}. Correct it."
            ) from error
        if isinstance(value, bool) and found is not value:  # a bare word would be taken for the number 1
            raise LorafuseError(f"{self.kind} '{name}': option {key} needs a value. Write {key}=VALUE.")
        if isinstance(found, float) and not math.isfinite(found):
            raise LorafuseError(
                f"{self.kind} '{name}': option {key}={value!r}: a finite number is due. Correct it."
            )
        return found


def split_options(text: str) -> dict[str, Any]:
    """The options of `option=value+option=value`; a bare option means true. LorafuseError for one said twice."""
    options: dict[str, Any] = {}
    for part in text.split("+") if text else ():
        key, has_value, value = part.partition("=")
        if key in options:
            raise LorafuseError(f"option '{key}' is there twice in '{text}'. Say it once.")
        options[key] = value if has_value else True
    return options


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
