"""LoRAMoE: LoRA experts under a dense softmax router, kept in balance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorafuse_bench.fusion.adapters.mixture import RoutedUpdate, balance_loss, check_sizes, weighted
from lorafuse_bench.fusion.adapters.trained import (
    Place,
    TrainedAdapter,
    TrainedUpdate,
    kaiming_,
    parameter,
    shape_of,
)
from lorafuse_bench.fusion.base import option
from lorafuse_bench.fusion.papers import LORAMOE, MOORE
from lorafuse_bench.fusion.registry import register
from lorafuse_bench.layers import AddedUpdate, add_product


class LoramoeUpdate(RoutedUpdate, AddedUpdate):
    """`y + s B (g ⊙ A x)`, `A (M r, in)`, `B (out, M r)`, `g = softmax(S x)`."""

    def __init__(self, base: nn.Module, o: Loramoe) -> None:
        out, into = shape_of(base)
        super().__init__(base, o.experts, into)
        self.o = o
        self.A, self.B = parameter(base, o.experts * o.rank, into), parameter(base, out, o.experts * o.rank)

    def reset(self, generator: torch.Generator) -> None:
        super().reset(generator)
        kaiming_(self.A, generator)
        nn.init.zeros_(self.B)

    def add_to(self, y: Tensor, x: Tensor) -> Tensor:
        hidden = F.linear(x, self.A).unflatten(-1, (self.o.experts, self.o.rank))
        return add_product(y, self.o.scale * weighted(hidden, self.gates(x)), self.B)

    def auxiliary(self, mask: Tensor) -> Tensor | None:
        assert self.probabilities is not None
        return self.o.balance * balance_loss(self.probabilities, mask)


@register
@dataclass(frozen=True)
class Loramoe(TrainedAdapter):
    """LoRAMoE: `y = Wx + s Σ_m softmax(S x)_m B_m A_m x`, a router of its own for every linear map.

    `A_m (r, in)`, `B_m (out, r)` zero at the start, `S (M, in)`. Adds `balance · var(I)/mean(I)²` to the loss,
    `I_m` the sum of expert m's weights over a batch. Source: Dou et al. 2024, eq 5-6; the original weights the
    importance by two kinds of samples and adapts the FFN only, MoORE's Table 5 all maps with
    M = 15, r = 4. Parameters per map: `M r (in + out) + M in`. Cost: a LoRA of rank M r.
    """

    rank: int = option(4, "rank r of each expert")
    experts: int = option(15, "number of experts M")
    scale: float = option(2.0, "factor s of the update, alpha/r")
    balance: float = option(0.01, "weight of the balance loss")

    name = "loramoe"
    paper = f"{LORAMOE}, eq 5-6; {MOORE}, Table 5"

    def __post_init__(self) -> None:
        check_sizes(self.rank, self.experts)

    def update(self, base: nn.Module, place: Place) -> TrainedUpdate:
        return LoramoeUpdate(base, self)
