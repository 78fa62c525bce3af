"""What the items of a metric are and how a value is made of them: mean, ratio, loss, bleu and mcc, by name.

An item is one number, or a row of `width` numbers; a metric's value is a function of the items' sums. A result names
the measure of each of its metrics. A package adds one by `register`, in a module named under the entry-point group
`lorafuse.measures`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Measure:
    """A named function of items `(n,)` where `width` is 1, else `(n, width)`.

    `of_sums` makes the value(s) of summed items `(..., width)`; of a mean it is never asked. `kind` says how the
    standard error is had: of the items themselves, by the delta method of a ratio, or over resamples.
    `per_item` gives `(n,)` scores of the items alone, and `impossible` says why no evaluation gives these items in
    a unit, None where one may. `units` are those it is for, none for any.
    """

    name: str
    width: int
    kind: Kind
    of_sums: Callable[[Array], Array]
    per_item: Callable[[Array], Array]
    impossible: Callable[[Array, str], str | None]
    units: frozenset[str] = frozenset()

    def array(self, items: Any) -> Array:
        """Items as an array of this measure; LorafuseError where they are not of its shape."""
        found = _array(items)
        if found.shape[1:] != (() if self.width == 1 else (self.width,)):
            raise LorafuseError(
                f"items of shape {found.shape} are not of measure '{self.name}' ({self.width} each)."
            )
        return found

    def point(self, items: Any) -> float:
        """The value over all items."""
        array = self.array(items)
        return float(array.mean() if self.width == 1 else self.of_sums(array.sum(axis=0)))


def _array(items: Any) -> Array:
    try:
        array = np.asarray(items, dtype=np.float64)
    except (TypeError, ValueError):  # rows of different lengths
        array = np.empty((0, 0, 0))
    if len(array) and array.ndim in (1, 2):
        return array
    raise LorafuseError(
        f"items of shape {array.shape} are no known kind. Give n >= 1 numbers, or rows of one length."
    )


def _number(values: Array, unit: str) -> str | None:
    """A loss is -log p, and a fraction lies between 0 and 1."""
    bounded = unit in LOSSES or unit in HIGHEST
    highest = HIGHEST.get(unit, np.inf) + TOLERANCE
    worst = [v for v in (values.min(), values.max()) if v < -TOLERANCE or v > highest]
    return f"{worst[0]:g} is no {unit}" if bounded and worst else None


def _pairs(items: Array, unit: str) -> str | None:
    part, whole = items.T
    if (whole < 0).any() or whole.sum() <= 0:
        return "a denominator that is not positive"
    if unit in HIGHEST and (part > whole + TOLERANCE).any():
        return "a part larger than its whole"
    return _number(part, unit) if unit in LOSSES else None


def _labels(items: Array, unit: str) -> str | None:
    one = ((items == 0) | (items == 1)).all() and (items.sum(axis=1) == 1).all()
    return None if one else "a row that is not one 1 among zeros"


def _ngrams(items: Array, unit: str) -> str | None:
    """A text of L tokens has max(0, L - k + 1) k-grams, of which no more match than there are of a shorter order."""
    correct, total, length = items[:, 2:6], items[:, 6:10], items[:, :1]
    if (items != np.rint(items)).any() or (items < 0).any():
        return "a count that is no whole number"
    if (total != np.maximum(length - np.arange(4), 0)).any():
        return "n-grams that a text of that length does not have"
    if (correct > total).any() or (np.diff(correct) > 0).any():
        return "more matches than there are n-grams"
    return None


def corpus_bleu(sums: Array) -> Array:
    """Corpus BLEU on 0-1 of summed statistics `(..., 10)`: brevity penalty times geometric mean precision.

    As sacrebleu's default: an order with no match counts as 1 / (2^k total), the k-th such order; no
    match at all, or an order without any n-gram, gives 0.
    """
    system, reference = sums[..., 0], sums[..., 1]
    correct, total = sums[..., 2:6], sums[..., 6:10]
    missed = (correct == 0) & (total > 0)
    smoothed = np.where(missed, 0.5 ** np.cumsum(missed, axis=-1), correct)
    possible = np.asarray((total > 0).all(axis=-1) & (correct > 0).any(axis=-1))
    precision = np.where(possible[..., None], smoothed / np.where(total > 0, total, 1.0), 1.0)
    brevity = np.minimum(0.0, 1.0 - reference / np.where(system > 0, system, 1.0))
    bleu = np.exp(brevity + np.log(precision).mean(axis=-1))
    return np.asarray(np.where(possible, bleu, 0.0))


def matthews(sums: Array) -> Array:
    """Matthews correlation of summed counts `(..., 6)`; 0 where it is undefined (no answer varies).

    With the table C (right, written), n its sum, p and t its column and row sums (Gorodkin, 2004, eq. 8):
    (n tr C - p.t) / sqrt((n^2 - p.p) (n^2 - t.t)); "neither" is written but never right.
    """
    table = sums.reshape(*sums.shape[:-1], 2, 3)
    written, right = table.sum(axis=-2), table.sum(axis=-1)
    n = right.sum(axis=-1)
    hits = table[..., 0, 0] + table[..., 1, 1]
    covariance = n * hits - (written[..., :2] * right).sum(axis=-1)
    spread = (n**2 - (written**2).sum(axis=-1)) * (n**2 - (right**2).sum(axis=-1))
    return np.asarray(np.where(spread > 0, covariance / np.sqrt(np.where(spread > 0, spread, 1.0)), 0.0))


def _quotient(sums: Array) -> Array:
    return np.asarray(sums[..., 0] / sums[..., 1])


def _own_quotient(items: Array) -> Array:
    return np.asarray(items[:, 0] / np.maximum(items[:, 1], 1.0))  # an empty text has no loss


def _itself(items: Array) -> Array:
    return items


MEAN = Measure("mean", 1, "mean", _itself, _itself, _number)
"""Items: a score each."""
RATIO = Measure("ratio", 2, "ratio", _quotient, _own_quotient, _pairs)
"""Items: [part, whole]; the value is the ratio of the sums."""
LOSS = Measure("loss", 2, "ratio", _quotient, _own_quotient, _pairs, LOSSES)
"""Items: [nats, tokens or bytes]; the value is the ratio of the sums."""
BLEU = Measure("bleu", 10, "bootstrap", corpus_bleu, corpus_bleu, _ngrams)
"""Items: [sys_len, ref_len, correct 1..4, total 1..4], sacrebleu's order."""
MCC = Measure("mcc", 6, "bootstrap", matthews, lambda items: np.asarray(items[:, 0] + items[:, 4]), _labels)
"""Items: [right 0: wrote 0, wrote 1, wrote neither; right 1: the same three], one of them 1; alone: the diagonal."""
_MEASURES: dict[str, Measure] = {}


def register(measure: Measure) -> Measure:
    """Make a measure known by its name. LorafuseError for a name that is taken by another."""
    if _MEASURES.setdefault(measure.name, measure) != measure:
        raise LorafuseError(f"measure '{measure.name}' is registered already. Rename one.")
    return measure


for _measure in (MEAN, RATIO, LOSS, BLEU, MCC):
    register(_measure)


@cache
def _third_parties() -> None:
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            entry.load()
        except Exception as error:  # whatever a foreign module raises, the user needs its name
            raise LorafuseError(
                f"entry point '{entry.name}' ({entry.value}) of group '{ENTRY_POINTS}' cannot be loaded:"
                f" {type(error).__name__}: {error}. Repair or uninstall that package."
            ) from error


def measures() -> Mapping[str, Measure]:
    """All measures by name: ours, and those of installed packages."""
    _third_parties()
    return _MEASURES


def named(name: str) -> Measure:
    """The measure of that name; LorafuseError lists what there is."""
    if name not in measures():
        raise unknown("measure", name, measures())
    return measures()[name]


def fitting(items: Any, unit: str = "fraction") -> Measure:
    """The measure of items whose result names none, by their width and unit: of version 1, or just evaluated."""
    array = _array(items)
    width = 1 if array.ndim == 1 else array.shape[1]
    fits = [m for m in measures().values() if m.width == width and (not m.units or unit in m.units)]
    if not fits or (array.ndim == 2 and width == 1):
        widths = ", ".join(f"{m.name} {m.width}" for m in measures().values())
        raise LorafuseError(
            f"items of shape {array.shape} are no known kind. Known, with numbers each: {widths}."
        )
    return max(fits, key=lambda m: bool(m.units))
