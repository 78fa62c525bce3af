"""Independent references of routing in fp64: dense `s B A`, dense SVD, one expert at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from dense import raw_factors
from torch import Tensor, nn
from transformers import PreTrainedModel


@dataclass(frozen=True)
class DenseExpert:
    """One expert at one linear map: its factors with the scaling in B, its product and the product's SVD."""

    A: Tensor
    B: Tensor
    delta: Tensor
    u: Tensor
    s: Tensor
    vt: Tensor

    @classmethod
    def of(cls, a: Tensor, b: Tensor, scaling: float) -> DenseExpert:
        delta = scaling * b @ a
        rank = a.shape[0]
        u, s, vt = (x for x in torch.linalg.svd(delta, full_matrices=False))
        u, s, vt = u[:, :rank].clone(), s[:rank], vt[:rank].clone()
        for j in range(rank):  # the sign convention: the largest entry of each right vector is positive
            if vt[j, vt[j].abs().argmax()] < 0:
                vt[j], u[:, j] = -vt[j], -u[:, j]
        return cls(a, scaling * b, delta, u, s, vt)


Update = Callable[[Sequence[DenseExpert], Tensor], Tensor]
"""(the experts that adapt this linear map, tokens x (t, in)) -> their updates (t, out)."""


class RoutedLinear(nn.Module):
    """`y = W x + update(experts, x)`."""

    def __init__(self, base: nn.Module, experts: Sequence[DenseExpert], update: Update) -> None:
        super().__init__()
        self.base, self.experts, self.update = base, experts, update

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return y + self.update(self.experts, x.flatten(0, -2)).reshape(y.shape)


def routed(base: PreTrainedModel, folders: Sequence[Path], update: Update) -> PreTrainedModel:
    """A copy of the base with `update` at every linear map that an adapter in `folders` has factors for."""
    model = copy.deepcopy(base)
    raw = [raw_factors(folder) for folder in folders]
    for module in sorted({m for factors, _ in raw for m in factors}):
        experts = [DenseExpert.of(*f[module], s[module]) for f, s in raw if module in f]
        model.set_submodule(module, RoutedLinear(model.get_submodule(module), experts, update))
    return model


def among_top(scores: Tensor, k: int) -> Tensor:
    """`scores (t, n)` -> whether each is among its row's k largest: fewer than k others are larger."""
    return (scores[:, None, :] > scores[:, :, None]).sum(-1) < k


def merge_after(gates: Tensor, experts: Sequence[DenseExpert], x: Tensor) -> Tensor:
    """`Σ g_i ΔW_i x`, with `gates (t, n)`."""
    total = torch.zeros(len(x), experts[0].delta.shape[0], dtype=x.dtype)
    for i, e in enumerate(experts):
        total += gates[:, i, None] * (x @ e.delta.T)
    return total


def merge_before(gates: Tensor, factors: Sequence[tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
    """`(Σ g_i B_i)(Σ g_j A_j) x` with a matrix of its own for every token, smaller ranks padded by zeros."""
    rank = max(len(a) for a, _ in factors)
    down, up = 0, 0
    for i, (a, b) in enumerate(factors):
        g = gates[:, i, None, None]
        down = down + g * F.pad(a, (0, 0, 0, rank - len(a)))
        up = up + g * F.pad(b, (0, rank - len(a)))
    return (up @ (down @ x[..., None]))[..., 0]


def arrow(k: int, temperature: float = 1.0, before: bool = False) -> Update:
    """SpectR eq 2-5: prototypes by SVD, |p x|, softmax over the k largest; mttl's merge of the factors."""

    def update(experts: Sequence[DenseExpert], x: Tensor) -> Tensor:
        logits = torch.stack([(x @ e.vt[0]).abs() for e in experts], 1)
        power = (logits / temperature).exp() * among_top(logits, k)
        gates = power / power.sum(1, keepdim=True)
        if before:
            return merge_before(gates, [(e.A, e.B) for e in experts], x)
        return merge_after(gates, experts, x)

    return update


def spectr(k: int, subspace: bool = False, two_step: bool = False) -> Update:
    """SpectR eq 6-13: rank by ‖S Vᵀ x‖ (or ‖Vᵀ x‖), then average k products, or k of each factor."""

    def update(experts: Sequence[DenseExpert], x: Tensor) -> Tensor:
        scores = torch.stack([(x @ (e.vt if subspace else e.delta).T).norm(dim=1) for e in experts], 1)
        chosen = among_top(scores, k).to(x.dtype)
        gates = chosen / chosen.sum(1, keepdim=True)
        if two_step:
            pairs = [(e.vt, e.u * e.s) if subspace else (e.s[:, None] * e.vt, e.u) for e in experts]
            return merge_before(gates, pairs, x)
        return merge_after(gates, experts, x)

    return update


def mu(n: int, before: bool = False) -> Update:
    """1/N for every expert of the pool; one that does not adapt the map counts as zero."""

    def update(experts: Sequence[DenseExpert], x: Tensor) -> Tensor:
        gates = torch.full((len(x), len(experts)), 1 / n, dtype=x.dtype)
        if before:
            return merge_before(gates, [(e.A, e.B) for e in experts], x)
        return merge_after(gates, experts, x)

    return update
