"""Whether a class is defined as its kind asks: looked at when it is registered, told in one line."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from lorafuse_bench.errors import LorafuseError


def check_definition(kind: str, cls: type, parent: type) -> None:
    """LorafuseError with all that is wrong with a class of a kind whose classes derive from `parent`."""
    problems = list(_problems(cls, parent))
    if problems:
        raise LorafuseError(f"{kind} {cls.__module__}.{cls.__qualname__} {'; it '.join(problems)}.")


def _problems(cls: type, parent: type) -> Iterator[str]:
    """Each reads on from the class's name."""
    if not (isinstance(cls, type) and issubclass(cls, parent)):
        yield f"is no {parent.__name__}: derive it from that"
        return
    yield from _descriptions(cls, parent.between_words)  # type: ignore[attr-defined]
    if inspect.isabstract(cls):
        yield f"does not define {', '.join(sorted(getattr(cls, '__abstractmethods__', ())))}"
    if not dataclasses.is_dataclass(cls) or _unread(cls):
        yield "is no dataclass: put @dataclass(frozen=True) below the decorator"
        return
    if not cls.__dataclass_params__.frozen or cls.__hash__ is None:  # type: ignore[attr-defined]
        yield "can be changed: write @dataclass(frozen=True)"
    problems = list(_options(cls, parent))
    yield from problems
    if not problems and not inspect.isabstract(cls):
        yield from cls.faults()  # type: ignore[attr-defined]


def _descriptions(cls: type, between: str) -> Iterator[str]:
    for said, what in (("name", "the word that selects it"), ("paper", "where it comes from")):
        value = getattr(cls, said, None)
        if not isinstance(value, str) or not value.strip():
            yield f'has no {said}: give it `{said} = "..."`, {what}'
    name = getattr(cls, "name", None)
    if isinstance(name, str) and name.strip() and not re.fullmatch(f"[a-z][a-z0-9{between}]*", name):
        yield f"has a name, {name!r}, that is not of small letters, digits and '{between}'"
    docstring = vars(cls).get("__doc__") or ""
    if not docstring.strip() or docstring.startswith(f"{cls.__name__}("):  # dataclass writes the signature
        yield "has no docstring: say in its first line what it is"


def _unread(cls: type) -> bool:
    """Whether options stand in its body that no dataclass decorator has read."""
    return any(isinstance(value, dataclasses.Field) for value in vars(cls).values())


def _options(cls: type, parent: type) -> Iterator[str]:
    """Options that nobody explained, or whose values cannot be told apart or given as text."""
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except Exception as error:  # whatever evaluating a foreign annotation raises
        yield f"has annotations that cannot be read ({type(error).__name__}: {error})"
        return
    for field in dataclasses.fields(cls):
        if field.name in typing.get_type_hints(parent):
            yield f"takes its {field.name} for an option: drop the annotation"
            continue
        if not str(field.metadata.get("help") or "").strip():
            yield f'has an option {field.name} without help: write `{field.name}: ... = option(DEFAULT, "what it is")`'
        if field.default_factory is not dataclasses.MISSING:
            yield f"has an option {field.name} with a mutable default: take text, a number or None"
            continue
        yield from _values(field.name, field.default, hints[field.name])


def _values(name: str, default: Any, hint: Any) -> Iterator[str]:
    if _unhashable(hint):
        yield f"has an option {name} of {hint}, which cannot be hashed: take text or a number"
        return
    try:
        adapter = TypeAdapter(hint)
        if default is not dataclasses.MISSING:
            hash(default)
            adapter.validate_python(default)
    except TypeError:
        yield f"has an option {name} with a mutable default, {default!r}: take text, a number or None"
    except PydanticUserError:
        yield f"has an option {name} of {hint}, which no text can be turned into"
    except ValidationError as error:
        yield f"has an option {name} whose default {default!r} it does not take: {error.errors()[0]['msg']}"


def _unhashable(hint: Any) -> bool:
    """Whether a type's values, or some that they hold, cannot be hashed."""
    kind = typing.get_origin(hint) or hint
    return (isinstance(kind, type) and kind.__hash__ is None) or any(map(_unhashable, get_args(hint)))
