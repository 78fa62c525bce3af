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
from typing import Literal

import numpy as np
import numpy.typing as npt

from lorafuse_bench.errors import LorafuseError

Array = npt.NDArray[np.float64]
Kind = Literal["mean", "ratio", "bootstrap"]

Z95 = 1.96
BOOTSTRAP_DRAWS = 10_000
BOOTSTRAP_SEED = 20250
COUNTS_AT_ONCE = 1 << 20  # which bounds the memory
GATE_LIMIT = 0.1
BLEU_WIDTH = 10  # sys_len, ref_len, correct 1..4, total 1..4: sacrebleu's order
MCC_WIDTH = 6  # right 0: wrote 0, wrote 1, wrote neither; right 1: the same three


@dataclass(frozen=True)
class Estimate:
    """A value and its standard error; `se` is None when one item leaves nothing to estimate it from."""

    value: float
    se: float | None


@dataclass(frozen=True)
class Statistic:
    """A metric over one task's items: `value`, `deviations` (n,) or (draws,) as said above, and `items`."""

    value: float
    deviations: Array
    scale: float
    kind: Kind = "mean"
    items: Array = field(default_factory=lambda: np.empty(0))

    def spread(self, combination: Array) -> float | None:
        """Standard error of the quantity whose linearised deviations are `combination`."""
        if len(combination) < 2:
            return None
        return float(np.std(combination, ddof=1) * self.scale)

    def estimate(self) -> Estimate:
        return Estimate(self.value, self.spread(self.deviations))


def statistic(items: Sequence[float] | Sequence[Sequence[float]] | Array, stratum: str = "") -> Statistic:
    """The statistic of per-item scores; the shape says which kind it is.

    (n,): scores, the metric is their mean. (n, 2): numerators and denominators (nats and tokens), the
    metric is the ratio of the sums. (n, 10): BLEU sufficient statistics, the metric is corpus BLEU on 0-1.
    (n, 6): counts of a two-word label, the metric is their Matthews correlation.
    `stratum` names the documents: statistics of one stratum share their bootstrap draws, others do not.
    """
    return statistics([items], stratum)[0]


def statistics(
    tables: Sequence[Sequence[float] | Sequence[Sequence[float]] | Array], stratum: str = ""
) -> list[Statistic]:
    """`statistic` of several methods' items on the same documents, all bootstrapped at once."""
    arrays = [as_array(table) for table in tables]
    corpus = [array for array in arrays if kind_of(array) == "bootstrap"]
    draws = iter(_corpus_draws(corpus, stratum) if corpus else ())
    return [_statistic(array, draws) for array in arrays]


def _statistic(array: Array, draws: Iterator[Array]) -> Statistic:
    kind, value = kind_of(array), point(array)
    if kind == "bootstrap":
        return Statistic(value, next(draws), 1.0, kind, array)
    scale = len(array) ** -0.5
    if kind == "ratio":
        deviations = (array[:, 0] - value * array[:, 1]) / array[:, 1].mean()
        return Statistic(value, deviations, scale, kind, array)
    return Statistic(value, array, scale, kind, array)


def as_array(items: Sequence[float] | Sequence[Sequence[float]] | Array) -> Array:
    """Items as an array of a known kind."""
    try:
        array = np.asarray(items, dtype=np.float64)
    except ValueError:  # rows of different lengths
        array = np.empty((0, 0, 0))
    pairs = array.ndim == 2 and array.shape[1] == 2 and array[:, 1].sum() > 0
    counts = array.ndim == 2 and array.shape[1] in _CORPUS
    if len(array) and (array.ndim == 1 or pairs or counts):
        return array
    raise LorafuseError(
        f"items of shape {array.shape} are no known kind. Give n scores, n (numerator, denominator) pairs,"
        f" n rows of {BLEU_WIDTH} BLEU statistics or of {MCC_WIDTH} label counts, n >= 1."
    )


def kind_of(array: Array) -> Kind:
    """How the standard error of such items is had."""
    if array.ndim == 1:
        return "mean"
    return "ratio" if array.shape[1] == 2 else "bootstrap"


def point(array: Array) -> float:
    """The metric's value over all items."""
    if array.ndim == 1:
        return float(array.mean())
    return float(_of_sums(array.sum(axis=0)))


def _of_sums(sums: Array) -> Array:
    """The metric of summed items `(..., 2)`, `(..., 6)` or `(..., 10)`."""
    return sums[..., 0] / sums[..., 1] if sums.shape[-1] == 2 else _CORPUS[sums.shape[-1]](sums)


def _corpus_draws(arrays: Sequence[Array], stratum: str) -> Array:
    """(methods, draws): the corpus metric of every method in every bootstrap draw."""
    if len(arrays[0]) == 1:  # one item never varies: leave one draw, so that its error is unknown, not 0
        return np.array([[point(array)] for array in arrays])
    return resampled(arrays, stratum)


def resampled(arrays: Sequence[Array], stratum: str) -> Array:
    """(methods, draws): every method's metric over resamples of the same documents, drawn alike for all."""
    if kind_of(arrays[0]) == "mean":
        return resampled_sums(np.stack(arrays, axis=1), stratum).T / len(arrays[0])
    width = arrays[0].shape[1]
    sums = resampled_sums(np.hstack(arrays), stratum).reshape(BOOTSTRAP_DRAWS, len(arrays), width)
    return np.stack([_of_sums(sums[:, i]) for i in range(len(arrays))])


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


_CORPUS = {BLEU_WIDTH: corpus_bleu, MCC_WIDTH: matthews}


def paired_difference(x: Statistic, y: Statistic) -> Estimate:
    """x - y over the same items; SE from the paired differences."""
    return Estimate(x.value - y.value, x.spread(x.deviations - y.deviations))


def paired_ratio(x: Statistic, y: Statistic) -> Estimate:
    """r = x/y over the same items; z_i = (x_i - r y_i) / y, SE = sd(z) / sqrt(n).

    The reference y must be well above zero: see `oracle_gate`.
    """
    r = x.value / y.value
    return Estimate(r, x.spread((x.deviations - r * y.deviations) / y.value))


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
