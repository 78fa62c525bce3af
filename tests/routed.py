"""Independent references of routing in fp64: dense `s B A`, dense SVD, one token and one expert at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
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


TokenUpdate = Callable[[Sequence[DenseExpert], Tensor], Tensor]
"""(the experts that adapt this linear map, one token's x (in,)) -> its update (out,)."""


class RoutedLinear(nn.Module):
    """`y_t = W x_t + update(experts, x_t)`, token by token."""

    def __init__(self, base: nn.Module, experts: Sequence[DenseExpert], update: TokenUpdate) -> None:
        super().__init__()
        self.base, self.experts, self.update = base, experts, update

    def forward(self, x: Tensor) -> Tensor:
        updates = [self.update(self.experts, token) for token in x.reshape(-1, x.shape[-1])]
        y: Tensor = self.base(x)
        return y + torch.stack(updates).reshape(y.shape)


def routed(base: PreTrainedModel, folders: Sequence[Path], update: TokenUpdate) -> PreTrainedModel:
    """A copy of the base with `update` at every linear map that an adapter in `folders` has factors for."""
    model = copy.deepcopy(base)
    raw = [raw_factors(folder) for folder in folders]
    for module in sorted({m for factors, _ in raw for m in factors}):
        experts = [DenseExpert.of(*f[module], s[module]) for f, s in raw if module in f]
        model.set_submodule(module, RoutedLinear(model.get_submodule(module), experts, update))
    return model


def top(scores: Sequence[float], k: int) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: -scores[i])[:k]


def padded_sum(parts: Sequence[Tensor], dim: int) -> Tensor:
    """Sum of matrices whose extent along `dim` differs, missing entries counting as zero."""
    shape = [max(p.shape[d] for p in parts) for d in range(2)]
    result = parts[0].new_zeros(shape)
    for p in parts:
        result[: p.shape[0], : p.shape[1]] += p
    assert result.shape[1 - dim] == parts[0].shape[1 - dim]
    return result


def arrow(k: int, temperature: float = 1.0, before: bool = False) -> TokenUpdate:
    """SpectR eq 2-5: prototypes by SVD, |p x|, softmax over the k largest; mttl's merge of the factors."""

    def update(experts: Sequence[DenseExpert], x: Tensor) -> Tensor:
        logits = [abs(float(e.vt[0] @ x)) for e in experts]
        chosen = top(logits, k)
        gates = torch.tensor([logits[i] / temperature for i in chosen], dtype=x.dtype).softmax(0)
        picked = [(g, experts[i]) for g, i in zip(gates, chosen, strict=True)]
        if before:
            return padded_sum([g * e.B for g, e in picked], 1) @ (
                padded_sum([g * e.A for g, e in picked], 0) @ x
            )
        return torch.stack([g * (e.delta @ x) for g, e in picked]).sum(0)

    return update


def spectr(k: int, subspace: bool = False, two_step: bool = False) -> TokenUpdate:
    """SpectR eq 6-13: rank by ‖S Vᵀ x‖ (or ‖Vᵀ x‖), then average k products, or k of each factor."""

    def update(experts: Sequence[DenseExpert], x: Tensor) -> Tensor:
        scores = [float((e.vt @ x if subspace else e.delta @ x).norm()) for e in experts]
        picked = [experts[i] for i in top(scores, k)]
        if two_step:
            downs = [e.vt if subspace else e.s[:, None] * e.vt for e in picked]
            ups = [e.u * e.s if subspace else e.u for e in picked]
            return padded_sum(ups, 1) / len(picked) @ (padded_sum(downs, 0) / len(picked) @ x)
        return torch.stack([e.delta @ x for e in picked]).mean(0)

    return update


def mu(n: int, before: bool = False) -> TokenUpdate:
    """1/N for every expert of the pool; one that does not adapt the map counts as zero."""

    def update(experts: Sequence[DenseExpert], x: Tensor) -> Tensor:
        if before:
            return padded_sum([e.B for e in experts], 1) / n @ (padded_sum([e.A for e in experts], 0) / n @ x)
        return torch.stack([e.delta @ x for e in experts]).sum(0) / n

    return update
