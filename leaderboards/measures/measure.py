"""What the items of a metric are and how a value is made of them, and the list of all that are known."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lorafuse_bench.errors import LorafuseError, unknown

Array = npt.NDArray[np.float64]
Kind = Literal["mean", "ratio", "bootstrap"]
ENTRY_POINTS = "lorafuse.measures"
TOLERANCE = 1e-9
HIGHEST = {"fraction": 1.0}
"""Unit -> its largest value; 0 is the smallest of all that are listed here and below."""
LOSSES = frozenset({"nats/token", "nats/byte"})


def itself(value: Any) -> Any:
    """An item that is logged as the measure has it."""
    return value


@dataclass(frozen=True)
class Reading:
    """How an item that lm-eval logs becomes one of a measure, and the unit of the value where that says it."""

    row: Callable[[Any], Any] = itself
    unit: str | None = None


@dataclass(frozen=True)
class Measure:
    """A named function of items `(n,)` where `width` is 1, else `(n, width)`.

    `of_sums` makes the value(s) of summed items `(..., width)`; of a mean it is never asked. `kind` says how the
    standard error is had: of the items themselves, by the delta method of a ratio, or over resamples.
    `per_item` gives `(n,)` scores of the items alone, and `impossible` says why no evaluation gives these items in
    a unit, None where one may. `readings`: lm-eval's aggregations, as a task's file names them, whose value this is.
    """

    name: str
    width: int
    kind: Kind
    of_sums: Callable[[Array], Array]
    per_item: Callable[[Array], Array]
    impossible: Callable[[Array, str], str | None]
    readings: Mapping[str, Reading] = field(default_factory=dict, hash=False)

    def array(self, items: Any) -> Array:
        """Items as an array of this measure; LorafuseError where they are not of its shape."""
        found = as_array(items)
        if found.shape[1:] != (() if self.width == 1 else (self.width,)):
            raise LorafuseError(
                f"items of shape {found.shape} are not of measure '{self.name}' ({self.width} each)."
            )
        return found

    def point(self, items: Any) -> float:
        """The value over all items."""
        array = self.array(items)
        return float(array.mean() if self.width == 1 else self.of_sums(array.sum(axis=0)))


def as_array(items: Any) -> Array:
    """Items `(n,)` or `(n, width)`; LorafuseError for anything else."""
    try:
        array = np.asarray(items, dtype=np.float64)
    except (TypeError, ValueError):  # rows of different lengths
        array = np.empty((0, 0, 0))
    if len(array) and array.ndim in (1, 2):
        return array
    raise LorafuseError(
        f"items of shape {array.shape} are no known kind. Give n >= 1 numbers, or rows of one length."
    )


_MEASURES: dict[str, Measure] = {}


def register(measure: Measure) -> Measure:
    """Make a measure known by its name. LorafuseError for a name, or an aggregation, that is taken by another."""
    if _MEASURES.setdefault(measure.name, measure) != measure:
        raise LorafuseError(f"measure '{measure.name}' is registered already. Rename one.")
    for other in _MEASURES.values():
        for aggregation in measure.readings.keys() & other.readings.keys() if other != measure else ():
            raise LorafuseError(
                f"measure '{measure.name}': aggregation '{aggregation}' is read by '{other.name}' already."
            )
    return measure


@cache
def _complete() -> None:
    """Import what registers measures: the files of this folder, and the entry points of packages."""
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__, package + "."):
        importlib.import_module(module.name)
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            entry.load()
        except LorafuseError:
            raise
        except Exception as error:  # whatever a foreign module raises, the user needs its name
            raise LorafuseError(
                f"entry point '{entry.name}' ({entry.value}) of group '{ENTRY_POINTS}' cannot be loaded:"
                f" {type(error).__name__}: {error}. Repair or uninstall that package."
            ) from error


def measures() -> Mapping[str, Measure]:
    """All measures by name: ours, and those of installed packages."""
    _complete()
    return _MEASURES


def named(name: str) -> Measure:
    """The measure of that name; LorafuseError lists what there is."""
    if name not in measures():
        raise unknown("measure", name, measures())
    return measures()[name]


def reader(aggregation: str) -> tuple[Measure, Reading] | None:
    """The measure that makes an aggregation's value of items, and how it reads them; None where none does."""
    for measure in measures().values():
        if aggregation in measure.readings:
            return measure, measure.readings[aggregation]
    return None


def fitting(items: Any, unit: str = "fraction") -> Measure:
    """The measure of items that name none: of results of version 1, which had these, one for each width and unit."""
    array = as_array(items)
    pair = "loss" if unit in LOSSES else "ratio"
    known = {1: "mean", 2: pair, 6: "mcc", 10: "bleu"}
    width = 1 if array.ndim == 1 else array.shape[1]
    if width not in known or (array.ndim == 2 and width == 1):
        widths = ", ".join(f"{name} {width}" for width, name in known.items())
        raise LorafuseError(
            f"items of shape {array.shape} are no known kind. Known, with numbers each: {widths}."
        )
    return named(known[width])
