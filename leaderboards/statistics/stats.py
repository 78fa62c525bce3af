"""The statistics of the leaderboard, one implementation of each (numpy only).

Every metric is held as a `Statistic`: its value and its *deviations*, numbers whose standard deviation
times `scale` is the standard error. For a mean the deviations are the items themselves (scale 1/sqrt(n));
for a corpus metric they are bootstrap replicates (scale 1). Two statistics over the same items have
deviations in the same order, so the standard error of any smooth combination of them is the standard
deviation of the same linear combination of deviations: that is the delta method, and it is paired.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.measures import Array, Kind, Measure, fitting
from lorafuse_bench.leaderboards.measures.mean import MEAN

Z95 = 1.96
BOOTSTRAP_DRAWS = 10_000
BOOTSTRAP_SEED = 20250
COUNTS_AT_ONCE = 1 << 20  # which bounds the memory
GATE_LIMIT = 0.1


@dataclass(frozen=True)
class Estimate:
    """A value and its standard error; `se` is None when one item leaves nothing to estimate it from."""

    value: float
    se: float | None


@dataclass(frozen=True)
class Statistic:
    """A metric over one task's items: `value`, `deviations` (n,) or (draws,) as said above, and what it is of."""

    value: float
    deviations: Array
    scale: float
    items: Array = field(default_factory=lambda: np.empty(0))
    measure: Measure = MEAN

    @property
    def kind(self) -> Kind:
        """How the standard error was had."""
        return self.measure.kind

    def spread(self, combination: Array) -> float | None:
        """Standard error of the quantity whose linearised deviations are `combination`."""
        if len(combination) < 2:
            return None
        return float(np.std(combination, ddof=1) * self.scale)

    def estimate(self) -> Estimate:
        return Estimate(self.value, self.spread(self.deviations))


def statistic(items: Any, stratum: str = "", measure: Measure | None = None) -> Statistic:
    """The statistic of per-item scores under a measure; where none is named, under the one that their width says.

    `stratum` names the documents: statistics of one stratum share their bootstrap draws, others do not.
    """
    return statistics([items], stratum, measure)[0]


def statistics(tables: Sequence[Any], stratum: str = "", measure: Measure | None = None) -> list[Statistic]:
    """`statistic` of several methods' items on the same documents, all bootstrapped at once."""
    measure = measure or fitting(tables[0])
    arrays = [measure.array(table) for table in tables]
    draws = _draws(arrays, stratum, measure) if measure.kind == "bootstrap" else [None] * len(arrays)
    return [_statistic(array, measure, drawn) for array, drawn in zip(arrays, draws, strict=True)]


def _statistic(array: Array, measure: Measure, draws: Array | None) -> Statistic:
    value = measure.point(array)
    if draws is not None:
        return Statistic(value, draws, 1.0, array, measure)
    scale = len(array) ** -0.5
    if measure.kind == "ratio":
        deviations = (array[:, 0] - value * array[:, 1]) / array[:, 1].mean()
        return Statistic(value, deviations, scale, array, measure)
    return Statistic(value, array, scale, array, measure)


def _draws(arrays: Sequence[Array], stratum: str, measure: Measure) -> Array:
    """(methods, draws): the metric of every method in every bootstrap draw."""
    if len(arrays[0]) == 1:  # one item never varies: leave one draw, so that its error is unknown, not 0
        return np.array([[measure.point(array)] for array in arrays])
    return resampled(arrays, stratum, measure)


def resampled(arrays: Sequence[Array], stratum: str, measure: Measure = MEAN) -> Array:
    """(methods, draws): every method's metric over resamples of the same documents, with the same draws for all."""
    if measure.width == 1:
        return resampled_sums(np.stack(arrays, axis=1), stratum).T / len(arrays[0])
    sums = resampled_sums(np.hstack(arrays), stratum).reshape(BOOTSTRAP_DRAWS, len(arrays), measure.width)
    return np.stack([measure.of_sums(sums[:, i]) for i in range(len(arrays))])


def draws_of(statistics: Sequence[Statistic], stratum: str) -> Array:
    """(methods, draws) of one task; a corpus metric keeps those that its standard error came from."""
    if statistics[0].kind == "bootstrap":
        return np.stack([statistic.deviations for statistic in statistics])
    return resampled([statistic.items for statistic in statistics], stratum, statistics[0].measure)


def resampled_sums(table: Array, stratum: str) -> Array:
    """(draws, columns): sums of `table` (n, columns) over the items of each draw, repeats counted."""
    # Single precision holds whole numbers below 2^24 exactly, and multiplies twice as fast.
    whole = bool((table == np.rint(table)).all()) and float(np.abs(table).max()) * len(table) < 2**24
    narrow = table.astype(np.float32 if whole else np.float64)
    draws = [counts.astype(narrow.dtype) @ narrow for counts in bootstrap_counts(len(table), stratum)]
    return np.concatenate(draws).astype(np.float64)


def bootstrap_counts(n: int, stratum: str = "") -> Iterator[npt.NDArray[np.intp]]:
    """How often each of n items is drawn, `(some draws, n)` at a time, BOOTSTRAP_DRAWS in all.

    The same for every method on the same stratum, which pairs the draws.
    """
    seed = hashlib.sha256(f"{BOOTSTRAP_SEED}/{stratum}".encode()).digest()
    rng = np.random.default_rng(list(seed))
    step = max(1, COUNTS_AT_ONCE // n)
    for start in range(0, BOOTSTRAP_DRAWS, step):
        draws = min(step, BOOTSTRAP_DRAWS - start)
        picks = rng.integers(0, n, size=(draws, n)) + n * np.arange(draws)[:, None]
        yield np.bincount(picks.ravel(), minlength=draws * n).reshape(draws, n)


def paired_difference(x: Statistic, y: Statistic) -> Estimate:
    """x - y over the same items; SE from the paired differences."""
    return Estimate(x.value - y.value, x.spread(x.deviations - y.deviations))


def paired_ratio(x: Statistic, y: Statistic) -> Estimate:
    """r = x/y over the same items; z_i = (x_i - r y_i) / y, SE = sd(z) / sqrt(n).

    The reference y must be well above zero: see `oracle_gate`.
    """
    r = x.value / y.value
    return Estimate(r, x.spread((x.deviations - r * y.deviations) / y.value))


def difference_of_ratios(x: Statistic, z: Statistic, y: Statistic) -> Estimate:
    """x/y - z/y over the same items, which is (x - z)/y: the same delta method as `paired_ratio`."""
    r = (x.value - z.value) / y.value
    return Estimate(r, x.spread((x.deviations - z.deviations - r * y.deviations) / y.value))


def recovered_gap(x: Statistic, base: Statistic, oracle: Statistic) -> Estimate:
    """(base - x) / (base - oracle): for a loss, the share of the oracle's improvement that x keeps."""
    gap = base.value - oracle.value
    g = (base.value - x.value) / gap
    z = ((base.deviations - x.deviations) - g * (base.deviations - oracle.deviations)) / gap
    return Estimate(g, x.spread(z))


def oracle_gate(oracle: Statistic, base: Statistic, direction: str) -> str | None:
    """None when the task may be normalised by its oracle, else the reason why not.

    The oracle must beat the base (paired, 95%), and for a score to be divided by, its own error must be
    small: g = 1.96^2 SE(y)^2 / y^2 <= 0.1 (Fieller: the ratio's interval is then finite and near symmetric).
    """
    gain = paired_difference(oracle, base) if direction == "up" else paired_difference(base, oracle)
    if gain.se is None:
        return "fewer than 2 items"
    if gain.value <= Z95 * gain.se:
        return f"the oracle does not beat the base (gain {gain.value:.3f} ± {gain.se:.3f})"
    if direction == "up":
        if oracle.value <= 0:
            return f"the oracle's score is not positive ({oracle.value:.3f})"
        g = (Z95 * (oracle.estimate().se or 0.0) / oracle.value) ** 2
        if g > GATE_LIMIT:
            return f"the oracle's own error is too large to divide by (g = {g:.2f} > {GATE_LIMIT})"
    return None


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """Unweighted mean over independent tasks; SE = sqrt(sum SE^2) / T. This is the multitask ability."""
    if not estimates:
        raise LorafuseError("no task counts towards the mean: no oracle passes its gate.")
    value = float(np.mean([e.value for e in estimates]))
    if any(e.se is None for e in estimates):
        return Estimate(value, None)
    squares = sum((e.se or 0.0) ** 2 for e in estimates)
    return Estimate(value, float(np.sqrt(squares)) / len(estimates))
