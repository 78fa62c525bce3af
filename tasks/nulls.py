"""Nulls of a row: a prompt, an answer or an option that shows one would say `None`, or `nan`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from lorafuse_bench.errors import LorafuseError

_MARK = "\u2400"  # printable, as repr() would escape it otherwise
_RENDERERS = ("doc_to_text", "doc_to_target", "doc_to_choice")


def refuse_nulls(task: Any) -> None:
    """Make a task of lm-eval's raise LorafuseError where it would show a null of a row; once for each task."""
    for name in _RENDERERS:
        if hasattr(task, name) and name not in vars(task):
            setattr(task, name, _checked(getattr(task, name), task.config.task))


def _checked(render: Callable[..., Any], task: str) -> Callable[..., Any]:
    def checked(doc: Mapping[str, Any], *others: Any, **options: Any) -> Any:
        found = render(doc, *others, **options)
        for column, value in doc.items():
            marked = _marked(value)
            if marked is not value and _shows(render, {**doc, column: marked}, found, *others, **options):
                raise LorafuseError(
                    f"task '{task}': column '{column}' is null in a row, and the task would show it as a word."
                    " Fill or remove these rows."
                )
        return found

    return checked


def _marked(value: Any) -> Any:
    """The value with a mark on every null, at any depth; the very same value where it has none."""
    if value is None or (isinstance(value, float) and value != value):
        return f"{_MARK}{value}"
    if isinstance(value, list):
        inner = [_marked(one) for one in value]
        return inner if any(new is not old for new, old in zip(inner, value, strict=True)) else value
    if isinstance(value, dict):
        fields = {key: _marked(one) for key, one in value.items()}
        return fields if any(fields[key] is not value[key] for key in value) else value
    return value


def _shows(
    render: Callable[..., Any], doc: Mapping[str, Any], found: Any, *others: Any, **options: Any
) -> bool:
    """Whether marks stand in the text, which without them is the text as it was found."""
    try:
        texts = _texts(render(doc, *others, **options))
    except Exception:  # a function of the task's that does not show the column, but compares or counts it
        return False
    unquoted = [re.sub(f"'{_MARK}(\\w+)'", r"\1", text) for text in texts]  # of a list that is shown whole
    without = ([text.replace(_MARK, "") for text in each] for each in (texts, unquoted))
    return any(_MARK in text for text in texts) and _texts(found) in without


def _texts(found: Any) -> list[str]:
    return [str(one) for one in found] if isinstance(found, list) else [str(found)]
