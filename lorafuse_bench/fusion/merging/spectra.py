"""Singular values and vectors of updates, from their factors: the `out x in` matrix is never built."""

from __future__ import annotations

import torch
from scipy.linalg import eigh
from torch import Tensor

from lorafuse_bench.experts import ModuleStack

ROUNDING = 1e-6
"""What is below this share of the largest singular value is fp32 rounding, not a direction."""


def summed(stack: ModuleStack) -> tuple[Tensor, Tensor]:
    """Factors `A (Σr, in)`, `B (out, Σr)` of `Σ_i s_i B_i A_i`, in fp64."""
    return stack.A.double().flatten(0, 1), stack.B.double().transpose(0, 1).flatten(1)


def product_svd(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`U (out, k)`, `S (k,)`, `Vᵀ (k, in)` of `b @ a`, for `a (R, in)`, `b (out, R)`; k is its rank, at least 1.

    QR of both factors, SVD of the core between them.
    """
    q_b, r_b = torch.linalg.qr(b)
    q_a, r_a = torch.linalg.qr(a.T)
    u, s, vt = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    k = rank_of(s)
    return q_b @ u[:, :k], s[:k], vt[:k] @ q_a.T


def eigen_of_square(x: Tensor) -> tuple[Tensor, Tensor]:
    """The eigenvalues `(n,)` of `x xᵀ`, the largest first, and their vectors `(n, n)`, for `x (n, m)`.

    NumPy makes half of a symmetric product, in half of torch's time; LAPACK overwrites it, read as its transpose.
    """
    values = x.cpu().numpy()
    found = eigh((values @ values.T).T, overwrite_a=True, check_finite=False, driver="evd")
    squares, vectors = (torch.from_numpy(each).to(x.device).flip(-1) for each in found)
    return squares, vectors


def rank_of(s: Tensor) -> int:
    """How many singular values are more than rounding; at least 1."""
    return max(1, int((s > ROUNDING * s[0]).sum()))


def nearest_orthogonal(x: Tensor) -> Tensor:
    """The matrix with orthonormal columns, on the span of `x (n, k)`, that is nearest to it (Procrustes).

    With `x = P S Qᵀ` it is `P Qᵀ`; of parallel columns each keeps its share of their one direction, and columns
    of zeros stay so.
    """
    p, s, qt = torch.linalg.svd(x, full_matrices=False)
    k = rank_of(s)
    return p[:, :k] @ qt[:k]
