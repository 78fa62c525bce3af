"""From scores to gates, and the SVD of each expert's update, for methods that gate per token."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ModuleStack

_AT_ONCE = 32
"""Experts that are there in fp64 at a time, which is four times what a pool in bf16 takes."""
_DEPENDENT = 1e-3
"""A row's distance from the span of the others, as a share of its length, under which Cholesky loses digits."""


def softmax_top_k(scores: Tensor, k: int, temperature: float = 1.0) -> Tensor:
    """Softmax of `scores / temperature (..., N)` over the k largest, 0 elsewhere."""
    values, index = scores.topk(k, dim=-1)
    return torch.zeros_like(scores).scatter(-1, index, (values / temperature).softmax(-1))


def uniform_top_k(scores: Tensor, k: int) -> Tensor:
    """1/k for each of the k largest of `scores (..., N)`; fewer share 1 where the others are -inf."""
    values, index = scores.topk(k, dim=-1)
    chosen = torch.isfinite(values).to(scores.dtype)
    return torch.zeros_like(scores).scatter(-1, index, chosen / chosen.sum(-1, keepdim=True))


class AtMost(int):
    """A default number of experts: all there are, where there are fewer. A number the user gives is an int."""


def mixed(method: str, k: int | Literal["all"], experts: int, option: str = "k") -> int:
    """How many of N experts are mixed where k is asked for; LorafuseError naming the option unless 1 <= k <= N."""
    if k == "all":
        return experts
    if isinstance(k, AtMost):
        return min(k, experts)
    if not 1 <= k <= experts:
        raise LorafuseError(
            f"method '{method}': {option}={k} must be between 1 and the number of experts, {experts}."
        )
    return k


def first_directions(stack: ModuleStack) -> Tensor:
    """`t (N, 1, r)` with `t_i A_i` the first right singular vector of `s_i B_i A_i`; 0 for an update that is 0.

    With `A Aᵀ = L Lᵀ` and w the first eigenvector of `Lᵀ BᵀB L`, of eigenvalue σ²: `t = BᵀB L w / σ²`, in fp64.
    """
    lower, weights = _root(_products(stack.A)), _products(stack.B.transpose(1, 2))
    squares, vectors = torch.linalg.eigh(lower.transpose(1, 2) @ weights @ lower)
    first = (weights @ lower @ vectors[..., -1:]).transpose(1, 2)
    largest = squares[:, -1, None, None]
    return torch.where(largest > 0, first / largest, 0)


def lengths_of(stack: ModuleStack) -> Tensor:
    """`C (N, r, r)` with `‖C_i A_i x‖ = ‖s_i B_i A_i x‖`: `BᵀB = Cᵀ C`, in fp64."""
    return _root(_products(stack.B.transpose(1, 2))).transpose(1, 2)


def combined(weights: Tensor, rows: Tensor) -> Tensor:
    """`w x (N, n)` of `weights (N, 1, r)` in fp64 and `rows (N, r, n)`."""
    parts = zip(weights.split(_AT_ONCE), rows.split(_AT_ONCE), strict=True)
    return torch.cat([w @ part.double() for w, part in parts])[:, 0]


def _products(rows: Tensor) -> Tensor:
    """`x xᵀ (N, r, r)` of `rows (N, r, n)`, in fp64."""
    return torch.cat([_square(part.double()) for part in rows.split(_AT_ONCE)])


def _square(rows: Tensor) -> Tensor:
    return rows @ rows.transpose(1, 2)


def _root(gram: Tensor) -> Tensor:
    """`L` with `L Lᵀ = gram (N, r, r)`: by Cholesky, or where one has no full rank by eigenvectors."""
    lower, failed = torch.linalg.cholesky_ex(gram)
    if not failed.any():
        return lower
    values, vectors = torch.linalg.eigh(gram)
    return vectors * values.clamp(min=0).sqrt()[:, None]


def expert_svd(stack: ModuleStack) -> tuple[Tensor, Tensor, Tensor]:
    """`U (N, out, r)`, `S (N, r)`, `Vᵀ (N, r, in)` of every `s_i B_i A_i`, without building it.

    Through orthonormal rows of both factors and the SVD of the `(r, r)` core, in fp64. Signs are fixed: the largest
    entry of each right singular vector is positive. Directions beyond an expert's rank are 0 in U, S and V.
    """
    r_b, from_b, b = _orthonormal_rows(stack.B.double().transpose(1, 2))
    r_a, from_a, a = _orthonormal_rows(stack.A.double())
    u, s, vh = torch.linalg.svd(r_b.transpose(1, 2) @ r_a, full_matrices=False)
    kept = (s > s[:, :1] * 1e-9)[..., None]
    right = (vh * kept) @ from_a @ a
    least, largest = right.aminmax(dim=-1, keepdim=True)
    sign = torch.where(largest < -least, -1.0, 1.0)
    # Both sides: a two-step merge multiplies one expert's U with another's Vᵀ x.
    left = b.transpose(1, 2) @ (from_b.transpose(1, 2) @ (u * (sign * kept).transpose(1, 2)))
    dtype = stack.A.dtype
    return left.to(dtype), (s * kept[..., 0]).to(dtype), right.to(dtype) * sign.to(dtype)


def _orthonormal_rows(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`R (N, r, r)`, `T (N, r, r)` and `y (N, r, n)` with `x = R T y`, where the rows of `T y` are orthonormal or 0.

    By Cholesky of the rows' products, rows scaled to length 1: several times faster than the QR of many narrow
    matrices. QR where some rows are so nearly dependent that this would lose digits.
    """
    products = x @ x.transpose(1, 2)
    length = products.diagonal(dim1=1, dim2=2).sqrt()
    inverse = torch.where(length > 0, 1 / length, 0)
    cosines = products * inverse[:, :, None] * inverse[:, None, :]
    cosines.diagonal(dim1=1, dim2=2).fill_(1)
    lower, failed = torch.linalg.cholesky_ex(cosines)
    if failed.any() or float(lower.diagonal(dim1=1, dim2=2).min()) < _DEPENDENT:
        q, r = torch.linalg.qr(x.transpose(1, 2))
        return (
            r.transpose(1, 2),
            torch.eye(q.shape[2], dtype=x.dtype, device=x.device).expand(len(x), -1, -1),
            q.transpose(1, 2),
        )
    return (
        lower * length[:, :, None],
        torch.linalg.solve_triangular(lower, inverse.diag_embed(), upper=False),
        x,
    )
