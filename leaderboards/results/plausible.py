"""What a result says of itself that can be checked without running anything: forgeries that agree with themselves.

Whether the items were measured or written by hand cannot be seen here; docs/submit.md says what then helps.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.results.difference import NOTHING
from lorafuse_bench.leaderboards.results.layout import cell_path
from lorafuse_bench.tasks.facts import Suite
from lorafuse_bench.tasks.suites import suite as suite_of

if TYPE_CHECKING:
    from lorafuse_bench.leaderboards.results.made_of import Method
    from lorafuse_bench.leaderboards.results.schema import Result, SuiteRecord, Task

BASE, ORACLE = "base", "oracle"
REFERENCES = {BASE: "floor", ORACLE: "reference"}
"""The labels that a board is read against, and the families of those two methods."""
DISTINCT = 0.9
"""Share of a task's documents that must differ; of real data sets more than 99% do."""
_LOCATION = re.compile(r"""(?:^|[\s=+,;:|()\[\]{}"'])(?:/[^/\s]|~[\w.-]*/|[A-Za-z]:[\\/]|\\\\|file:)""")
_UPWARDS = re.compile(r"(?:^|[\\/])\.\.(?:[\\/]|$)")


def check_plausible(path: str | Path, result: Result) -> None:
    """LorafuseError, naming `path` and the field, where a result cannot be what it says it is."""
    for field, problem in _problems(result):
        raise LorafuseError(f"{path}: {field}: {problem} Run the cell again with `lorafuse run`.")


def check_place(path: Path, result: Result) -> None:
    """LorafuseError if a result is stored under the name of another suite, zoo, seed or method."""
    zoo, label = result.zoo, result.method.label
    right = cell_path("", result.suite, zoo.name, zoo.seed, label)
    if path.absolute().parts[-3:] != right.parts:
        raise LorafuseError(
            f"{path}: method.label: '{label}' of suite {result.suite}, zoo {zoo.name}, seed {zoo.seed} belongs"
            f" in {right}. Move it there."
        )


def check_nowhere(path: str | Path, result: Result) -> None:
    """LorafuseError where a text, or the name of a field, is a path of one machine."""
    for field, text in _texts(result.model_dump(mode="json"), ""):
        if _LOCATION.search(text) or _UPWARDS.search(text):
            raise LorafuseError(
                f"{path}: {field}: '{text}' is a path of one machine. Name it, and run the cell again."
            )


def _problems(result: Result) -> Iterator[tuple[str, str]]:
    yield from _of_method(result)
    yield from _of_pool(result)
    for key, task in result.tasks.items():
        yield from _of_task(f"tasks.{key}", task, result.limit)
    yield from _of_documents(result)
    if result.definition:
        yield from _of_definition(result, result.definition)
    with suppress(LorafuseError):  # a suite that nothing here knows says what it is itself
        yield from _of_suite(result, suite_of(result.suite))


def _of_method(result: Result) -> Iterator[tuple[str, str]]:
    method = result.method
    if named_options(method) is None:
        yield "method.label", f"'{method.label}' is not '{method.name}' with the options {method.options}."
    if method.family != REFERENCES.get(method.label, method.family):
        yield "method.family", f"'{method.family}', but {method.label} is a {REFERENCES[method.label]}."
    if method.label == BASE and (result.cost.extra_parameters or result.artefacts):
        yield (
            "cost.extra_parameters",
            f"{result.cost.extra_parameters} and an artefact, but base has neither.",
        )


def named_options(method: Method) -> frozenset[str] | None:
    """The options that a label names; None where it is not the method's name with some of its options."""
    name, colon, tail = method.label.partition(":")
    pieces = {f"{key}={option_text(value)}": key for key, value in method.options.items()}
    named: list[str] = []
    left = tail + "+"
    while colon and left:
        fitting = (piece for piece in pieces if left.startswith(piece + "+"))
        piece = max(fitting, key=len, default=None)
        if piece is None:
            return None
        named.append(pieces.pop(piece))
        left = left[len(piece) + 1 :]
    return frozenset(named) if name == method.name else None


def option_text(value: JsonValue) -> str:
    """An option's value as labels have it; a list in JSON was a tuple."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(tuple(value) if isinstance(value, list) else value)


def _of_pool(result: Result) -> Iterator[tuple[str, str]]:
    names = [expert.name for expert in result.experts]
    if len(set(names)) < len(names):
        yield "experts", f"a name stands twice among {', '.join(names)}."
    if unknown := sorted(result.data.splits.keys() - result.tasks.keys()):
        yield f"data.splits.{unknown[0]}", "no such task in the result."


def _of_task(where: str, task: Task, limit: float | None) -> Iterator[tuple[str, str]]:
    asked = task.n_original if limit is None else limit if limit >= 1 else math.ceil(task.n_original * limit)
    if task.n > task.n_original:
        yield f"{where}.n", f"{task.n} items of a split of {task.n_original}."
    elif limit is not None and task.n != min(asked, task.n_original):
        yield f"{where}.n", f"{task.n} items, but limit {limit} gives {min(asked, task.n_original)}."
    if task.representative not in task.metrics:
        yield f"{where}.representative", f"no metric '{task.representative}'."


def _of_documents(result: Result) -> Iterator[tuple[str, str]]:
    """Two data sets do not hold the very same documents."""
    owner: dict[str, str] = {}
    for key, task in result.tasks.items():
        other = owner.setdefault(task.docs_sha256, key)
        if task.dataset != result.tasks[other].dataset:
            yield f"tasks.{key}.docs_sha256", f"the documents of {other}, which is another data set."


def _of_suite(result: Result, suite: Suite) -> Iterator[tuple[str, str]]:
    """A suite that is known here has its tasks, metrics, directions and units."""
    for key, task in result.tasks.items():
        where, main = f"tasks.{key}", task.representative
        if key not in suite.tasks:
            yield where, f"no task of suite {result.suite}."
            continue
        ours = suite.tasks[key]
        if main != ours.metric:
            yield f"{where}.representative", f"'{main}', but in suite {result.suite} it is '{ours.metric}'."
            continue
        said, right = (f"{x.direction}, {x.unit}" for x in (task.metrics[main], ours))
        if said != right:
            yield f"{where}.metrics.{main}.direction", f"'{said}', but it is '{right}'."


def _of_definition(result: Result, definition: SuiteRecord) -> Iterator[tuple[str, str]]:
    """The suite that a result keeps is the one that it was scored under."""
    told = {task.key: task for task in definition.tasks}
    for key, task in result.tasks.items():
        if key not in told:
            yield f"tasks.{key}", f"no task of the suite that the result keeps ({', '.join(told)})."
            continue
        said, metric = told[key], task.metrics[task.representative]
        for field, is_, ought in (
            ("representative", task.representative, said.metric),
            (f"metrics.{task.representative}.direction", metric.direction, said.direction),
            (f"metrics.{task.representative}.unit", metric.unit, said.unit),
        ):
            if is_ != ought:
                yield f"tasks.{key}.{field}", f"'{is_}', but the suite that the result keeps has '{ought}'."


def distinct(hashes: tuple[str, ...]) -> bool:
    """Whether the documents are as different as those of a data set are."""
    return len(set(hashes)) >= DISTINCT * len(hashes)


def _texts(value: JsonValue, where: str) -> Iterator[tuple[str, str]]:
    """Every string below `value` with its field, names of fields included."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield where or key, key
            yield from _texts(inner, f"{where}.{key}".lstrip("."))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _texts(inner, f"{where}.{place}")


def check_defaults(methods: Sequence[tuple[Path, Method]]) -> None:
    """LorafuseError where two cells of one method cannot both be named rightly.

    A label names the options that differ from their defaults, and a default is one value.
    """
    defaults: dict[tuple[str, str, str], JsonValue] = {}
    for path, method, key, named in _options(methods):
        value = method.options[key]
        default = defaults.setdefault((method.name, method.version, key), value) if not named else value
        if value != default:
            raise LorafuseError(
                f"{path}: method.options.{key}: {option_text(value)}, but {option_text(default)} in another cell"
                f" of {method.name} whose label does not name it either. Run the older again."
            )
    for path, method, key, named in _options(methods):
        if named and defaults.get((method.name, method.version, key), NOTHING) == method.options[key]:
            raise LorafuseError(
                f"{path}: method.options.{key}: '{method.label}' names {option_text(method.options[key])}, which"
                " another cell has without naming it. Run the older again."
            )


def _options(methods: Sequence[tuple[Path, Method]]) -> Iterator[tuple[Path, Method, str, bool]]:
    """Every option of every cell, and whether its label names it."""
    for path, method in methods:
        labelled = named_options(method) or frozenset()
        for key in method.options:
            yield path, method, key, key in labelled
