"""MoSLD: experts that share one of their two factors, two of them per token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorafuse_bench.fusion.adapters.mixture import RoutedUpdate, check_sizes, load_loss, weighted
from lorafuse_bench.fusion.adapters.trained import (
    Place,
    TrainedAdapter,
    TrainedUpdate,
    kaiming_,
    parameter,
    shape_of,
)
from lorafuse_bench.fusion.base import option
from lorafuse_bench.fusion.papers import MOORE, MOSLD
from lorafuse_bench.fusion.registry import register
from lorafuse_bench.layers import AddedUpdate, add_product


class MosldUpdate(RoutedUpdate, AddedUpdate):
    """`y + s B Σ_m g_m A_m x`, or with A shared `y + s Σ_m g_m B_m A x`; g the k largest of `softmax(S x)`."""

    def __init__(self, base: nn.Module, o: Mosld) -> None:
        out, into = shape_of(base)
        super().__init__(base, o.experts, into, o.k)
        self.o = o
        ranks = {"A": o.experts * o.rank, "B": o.experts * o.rank, o.shared: o.rank}
        self.A, self.B = parameter(base, ranks["A"], into), parameter(base, out, ranks["B"])

    def reset(self, generator: torch.Generator) -> None:
        super().reset(generator)
        kaiming_(self.A, generator)
        nn.init.zeros_(self.B)

    def add_to(self, y: Tensor, x: Tensor) -> Tensor:
        hidden = weighted(F.linear(x, self.A).unflatten(-1, (-1, self.o.rank)), self.gates(x))
        if self.o.shared == "B":
            hidden = hidden.unflatten(-1, (-1, self.o.rank)).sum(-2)
        return add_product(y, self.o.scale * hidden, self.B)

    def auxiliary(self, mask: Tensor) -> Tensor | None:
        assert self.probabilities is not None
        return self.o.balance * load_loss(self.probabilities, mask, self.o.k)


@register
@dataclass(frozen=True)
class Mosld(TrainedAdapter):
    """MoSLD: `y = Wx + s Σ_m g_m B A_m x`, g the k largest of `softmax(S x)` over their sum.

    `A_m (r, in)`, `B (out, r)` zero at the start, `S (M, in)`. The papers disagree on which factor is shared:
    B in MoORE's Tables 1-2 (our default), A in MoSLD's own text (`shared=A`: `s Σ_m g_m B_m A x`). Adds
    `balance · M Σ f_m P_m` to the loss. Its dropout on the shared factor is left out, as MoORE trains without.
    Sources: Zhao et al. 2025; MoORE, Table 1. Parameters per map: `r (M in + out) + M in` (M r of the factor
    that is not shared). Cost: `r (M in + out)` products.
    """

    rank: int = option(8, "rank r")
    experts: int = option(10, "number of experts M")
    k: int = option(2, "experts per token")
    shared: Literal["A", "B"] = option("B", "the factor that all experts share")
    scale: float = option(2.0, "factor s of the update, alpha/r")
    balance: float = option(0.001, "weight of the load loss")

    name = "mosld"
    paper = f"{MOSLD}; {MOORE}, Table 1"

    def __post_init__(self) -> None:
        check_sizes(self.rank, self.experts, self.k)

    def update(self, base: nn.Module, place: Place) -> TrainedUpdate:
        return MosldUpdate(base, self)
