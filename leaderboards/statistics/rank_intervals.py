"""Ranks as intervals: which methods can be told apart, and which places that leaves for each (numpy only).

Every pair of methods is tested on the difference of their abilities over the bootstrap's draws, in which
all methods (and the oracle) see the same items: p = erfc(|d| / (sqrt(2) sd_b(d_b))), two-sided. A share of
draws would bottom out at 1/draws, too coarse for the many pairs of a large board; a mean over hundreds of
items is near normal. Holm's correction over all pairs keeps the chance of even one false claim below
LEVEL. A method then ranks between 1 + (methods surely better) and M - (methods surely worse), and all
intervals hold at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lorafuse_bench.leaderboards.measures import Array

LEVEL = 0.05


@dataclass(frozen=True)
class Ranks:
    """`low`, `high` (m,): the interval of each method's rank; `se`, `p` (m, m): of every pair, p corrected."""

    low: npt.NDArray[np.intp]
    high: npt.NDArray[np.intp]
    se: Array
    p: Array


def ranks(values: Array, draws: Array) -> Ranks:
    """Rank intervals of `values` (m,), the larger the better, from their bootstrap `draws` (m, draws)."""
    difference = values[:, None] - values[None, :]
    se = difference_errors(draws)
    p = _symmetric(
        holm(np.array([two_sided(d, e) for d, e in zip(_upper(difference), _upper(se), strict=True)]))
    )
    better = (p <= LEVEL) & (difference > 0)  # i surely better than j
    return Ranks(1 + better.sum(axis=0), len(values) - better.sum(axis=1), se, p)


def difference_errors(draws: Array) -> Array:
    """(m, m): standard deviation over the draws of every difference."""
    centred = draws - draws.mean(axis=1, keepdims=True)
    products = centred @ centred.T / (draws.shape[1] - 1)
    variances = np.diag(products)
    return np.asarray(np.sqrt(np.maximum(variances[:, None] + variances[None, :] - 2 * products, 0.0)))


def two_sided(difference: float, se: float) -> float:
    """Two-sided p of a difference with a normal standard error; equal scores are never told apart."""
    if difference == 0:
        return 1.0
    return math.erfc(abs(difference) / (math.sqrt(2) * se)) if se > 0 else 0.0


def holm(p: Array) -> Array:
    """Holm's step-down correction: the k-th smallest of m times m - k + 1, never below the one before."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def _upper(matrix: Array) -> Array:
    return matrix[np.triu_indices(len(matrix), 1)]


def _symmetric(upper: Array) -> Array:
    """The symmetric matrix whose part above the diagonal is `upper`, with ones on the diagonal."""
    m = round((1 + math.sqrt(1 + 8 * len(upper))) / 2)
    matrix = np.ones((m, m))
    above = np.triu_indices(m, 1)
    matrix[above] = upper
    matrix.T[above] = upper
    return matrix
