"""From scores to gates, and the SVD of each expert's update, for methods that gate per token."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ModuleStack


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


def mixed(method: str, k: int | Literal["all"], experts: int) -> int:
    """How many of N experts are mixed where k is asked for; LorafuseError unless 1 <= k <= N."""
    if k == "all":
        return experts
    if isinstance(k, AtMost):
        return min(k, experts)
    if not 1 <= k <= experts:
        raise LorafuseError(
            f"method '{method}': k={k} must be between 1 and the number of experts, {experts}."
        )
    return k


def expert_svd(stack: ModuleStack) -> tuple[Tensor, Tensor, Tensor]:
    """`U (N, out, r)`, `S (N, r)`, `Vᵀ (N, r, in)` of every `s_i B_i A_i`, without building it.

    By QR of the factors and the SVD of the `(r, r)` core, in fp64. Signs are fixed: the largest entry of
    each right singular vector is positive. Directions beyond an expert's rank are 0 in U, S and V.
    """
    q_b, r_b = torch.linalg.qr(stack.B.double())
    q_a, r_a = torch.linalg.qr(stack.A.double().transpose(1, 2))
    u, s, vh = torch.linalg.svd(r_b @ r_a.transpose(1, 2), full_matrices=False)
    left, right = q_b @ u, vh @ q_a.transpose(1, 2)
    largest = right.gather(-1, right.abs().argmax(-1, keepdim=True))
    sign = torch.where(largest < 0, -1.0, 1.0)
    kept = (s > s[:, :1] * 1e-9)[..., None]
    # Both sides: a two-step merge multiplies one expert's U with another's Vᵀ x.
    right = right * sign * kept
    left = left * (sign * kept).transpose(1, 2)
    dtype = stack.A.dtype
    return left.to(dtype), (s * kept[..., 0]).to(dtype), right.to(dtype)
