"""The leading singular vectors of a product of two factors: found in fp32, then corrected to fp64."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh, eigh_tridiagonal, lapack, solve_banded
from torch import Tensor

Array = NDArray[Any]

_PART = 128
"""Columns of factors that are converted to fp64 at a time, so that they stay in the cache."""
_SPARING = 16
"""Correcting costs less than fp64 throughout where there are so many times more directions than wanted."""
_EXACT = 1e-8
"""Error of the vectors at which they are taken; relative, as `_FAR`."""
_FAR = 1e-2
"""Error from which on vectors found in fp32 are not corrected: the next direction is too near to tell them apart."""
_TURNS = 4
"""Corrections at most."""


def leading_svd(left: Tensor, right: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """`U (n, k)`, `S (k,)`, `V (m, k)` in fp64 of `M = left @ right`, `left (n, R)`, `right (R, m)`.

    k is `count`, at most n and m. Where `n <= m`, U are the eigenvectors of `M Mᵀ`, and `V S = Mᵀ U`; else the other
    way round. Exact for all directions above 1e-8 of the largest, which is what fp32 factors can tell.
    """
    if len(left) > right.shape[1]:
        v, s, u = leading_svd(right.T, left.T, count)
        return u, s, v
    count = min(count, len(left))
    factors = _to_numpy(left), _to_numpy(right)
    vectors = None
    if count * _SPARING <= len(left):
        with suppress(ValueError):  # LAPACK meets a value that is exact, or out of fp32's range
            vectors = _corrected(*factors, (left.float() @ right.float()).cpu().numpy(), count)
    if vectors is None:
        product = _product(*factors)
        leading = {"subset_by_index": (len(product) - count, len(product) - 1)}
        vectors = eigh(product @ product.T, overwrite_a=True, check_finite=False, **leading)[1]
    others = _product(factors[1].T, factors[0].T, vectors)
    sizes = np.linalg.norm(others, axis=0)
    others /= np.maximum(sizes, np.finfo(np.float64).tiny)
    u, s, v = (torch.from_numpy(each).to(left.device).flip(-1) for each in (vectors, sizes, others))
    return u, s, v


def _corrected(left: Array, right: Array, rough: Array, count: int) -> Array | None:
    """The `count` leading left singular vectors `(n, k)` of `left @ right`, the largest last, from `rough` in fp32.

    With `Q T Qᵀ`, the tridiagonal form of the square of `rough`, and the residual `r = M Mᵀ u - θ u` in fp64 of a
    vector u with value θ, `u - Q (T - θ)⁻¹ Qᵀ r` is nearer, the wanted directions being left out of the inverse
    (Jacobi-Davidson). Every turn multiplies the error, `|r|` over the distance to the next value, by its first.
    None where an error is too large for that. ValueError where T - θ or the square is nothing that LAPACK solves.
    """
    with np.errstate(over="ignore"):
        form = _Tridiagonal(rough @ rough.T, count)
    vectors, first = form.vectors, None
    for _ in range(_TURNS):
        others = _product(right.T, left.T, vectors)
        values, turn = np.linalg.eigh(others.T @ others)
        vectors = vectors @ turn
        residual = _product(left, right, others @ turn) - vectors * values
        distance, off = values[0] - form.next_value, np.linalg.norm(residual)
        if not off < _FAR * distance:
            return None
        error = off / distance
        first = first or error
        vectors = np.linalg.qr(vectors - form.solved(values, residual))[0]
        if error * first < _EXACT:
            return vectors
    return None


class _Tridiagonal:
    """A symmetric matrix `(n, n)` in fp32 as `Q T Qᵀ`; its leading eigenvectors `(n, k)`, the value after theirs."""

    def __init__(self, square: Array, count: int) -> None:
        n = len(square)
        reflectors, diagonal, beside, self._tau, _ = lapack.ssytrd(
            square.T, lower=1, lwork=32 * n, overwrite_a=1
        )
        self._reflectors = np.asfortranarray(reflectors[1:, :-1])
        self._diagonal, beside = diagonal.astype(np.float64), beside.astype(np.float64)
        wanted = {"select": "i", "select_range": (n - count - 1, n - 1)}
        values, inner = eigh_tridiagonal(self._diagonal, beside, **wanted, lapack_driver="stemr")
        self._bands = np.array([[0, *beside], self._diagonal, [*beside, 0]])
        self._inner = inner[:, 1:]
        self.next_value, self.vectors = values[0], self._turned(self._inner, "N")

    def solved(self, values: Array, residuals: Array) -> Array:
        """`Q (T - θ)⁻¹ Qᵀ r` for each θ of `values (k,)` and r of `residuals (n, k)`, the eigenvectors left out."""
        x = self._without(self._turned(residuals, "T"))
        for column, value in zip(x.T, values, strict=True):
            self._bands[1] = self._diagonal - value
            column[:] = solve_banded((1, 1), self._bands, column, check_finite=False)
        return self._turned(self._without(x), "N")

    def _without(self, x: Array) -> Array:
        return x - self._inner @ (self._inner.T @ x)

    def _turned(self, x: Array, side: str) -> Array:
        """`Q x`, or with side `T` `Qᵀ x`, for `x (n, k)`; the first row of both is that of x."""
        below = lapack.sormqr("L", side, self._reflectors, self._tau, x[1:], 32 * x.shape[1])[0]
        return np.concatenate([x[:1], below])


def _to_numpy(x: Tensor) -> Array:
    """In fp64 or fp32: NumPy has no bf16."""
    return (x if x.dtype == torch.float64 else x.float()).cpu().numpy()


def _product(left: Array, right: Array, x: Array | None = None) -> Array:
    """`left (n, R) @ right (R, m)` in fp64, times `x (m, k)` where it is given."""
    total = np.zeros((len(left), (right if x is None else x).shape[1]))
    for start in range(0, len(right), _PART):
        rows = right[start : start + _PART].astype(np.float64)
        total += left[:, start : start + _PART].astype(np.float64) @ (rows if x is None else rows @ x)
    return total
