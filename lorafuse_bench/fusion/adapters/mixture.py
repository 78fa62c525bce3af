"""What mixtures of LoRA experts share: a router, sparse gates, and losses that keep all experts in use."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorafuse_bench.fusion.adapters.trained import TrainedUpdate, kaiming_, parameter


class RoutedUpdate(TrainedUpdate):
    """An update whose experts are weighted by `softmax(S x)`, `S (M, in)`, or by its k largest, renormalised."""

    def __init__(self, base: nn.Module, experts: int, into: int, k: int | None = None) -> None:
        super().__init__()
        self.S = parameter(base, experts, into)
        self.k = k
        self.probabilities: Tensor | None = None

    def reset(self, generator: torch.Generator) -> None:
        kaiming_(self.S, generator)

    def route(self, x: Tensor) -> Tensor:
        """`softmax(S x) (..., M)`, in fp32: in bf16 close ones would tie. Kept in training for `auxiliary`."""
        logits = F.linear(x, self.S)
        probabilities = logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
        self.probabilities = probabilities if self.training else None
        return probabilities

    def gates(self, x: Tensor) -> Tensor:
        probabilities = self.route(x)
        return probabilities if self.k is None else sparse(probabilities, self.k)


def sparse(probabilities: Tensor, k: int) -> Tensor:
    """The k largest of `(..., M)` over their sum, 0 elsewhere."""
    values, index = probabilities.topk(k, dim=-1)
    return torch.zeros_like(probabilities).scatter(-1, index, values / values.sum(-1, keepdim=True))


def weighted(hidden: Tensor, gates: Tensor) -> Tensor:
    """`(..., M r)`: `hidden (..., M or 1, r)` times `gates (..., M)`, expert after expert."""
    return (hidden * gates[..., None].to(hidden.dtype)).flatten(-2)


def balance_loss(probabilities: Tensor, mask: Tensor) -> Tensor:
    """`var(I) / mean(I)²` of the experts' importance `I_m = Σ_tokens p_m` over the tokens in `mask`."""
    importance = probabilities[mask].sum(0)
    return importance.var(correction=0) / importance.mean() ** 2


def load_loss(probabilities: Tensor, mask: Tensor, k: int) -> Tensor:
    """`M Σ_m f_m P_m`: f_m the share of tokens with m among their k largest, P_m its mean probability."""
    p = probabilities[mask]
    chosen = torch.zeros_like(p).scatter(-1, p.topk(k, dim=-1).indices, 1.0)
    return p.shape[-1] * (chosen.mean(0) * p.mean(0)).sum()


def check_sizes(rank: int, experts: int, k: int | None = None) -> None:
    """ValueError unless there are experts of some rank, and k of them to choose."""
    if rank < 1 or experts < 1 or not 1 <= (experts if k is None else k) <= experts:
        raise ValueError("rank and experts must be 1 or more, and k between 1 and the number of experts.")
