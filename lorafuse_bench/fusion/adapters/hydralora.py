"""HydraLoRA: one A, several B under a dense softmax router."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorafuse_bench.fusion.adapters.mixture import RoutedUpdate, check_sizes, weighted
from lorafuse_bench.fusion.adapters.trained import (
    Place,
    TrainedAdapter,
    TrainedUpdate,
    kaiming_,
    parameter,
    shape_of,
)
from lorafuse_bench.fusion.base import option
from lorafuse_bench.fusion.papers import HYDRALORA, MOORE
from lorafuse_bench.fusion.registry import register
from lorafuse_bench.layers import AddedUpdate, add_product


class HydraloraUpdate(RoutedUpdate, AddedUpdate):
    """`y + s B (g ⊗ A x)`, `A (r, in)`, `B (out, M r)`, `g = softmax(S x)`."""

    def __init__(self, base: nn.Module, o: Hydralora) -> None:
        out, into = shape_of(base)
        super().__init__(base, o.experts, into)
        self.scale = o.scale
        self.A, self.B = parameter(base, o.rank, into), parameter(base, out, o.experts * o.rank)

    def reset(self, generator: torch.Generator) -> None:
        super().reset(generator)
        kaiming_(self.A, generator)
        nn.init.zeros_(self.B)

    def add_to(self, y: Tensor, x: Tensor) -> Tensor:
        hidden = F.linear(x, self.A)[..., None, :]
        return add_product(y, self.scale * weighted(hidden, self.gates(x)), self.B)


@register
@dataclass(frozen=True)
class Hydralora(TrainedAdapter):
    """HydraLoRA: `y = Wx + s Σ_m softmax(S x)_m B_m A x`, one `A (r, in)` for all experts.

    `B_m (out, r)` zero at the start, `S (M, in)`. Source: Tian et al. 2024, eq 5; sizes of MoORE's Table 5:
    M = 3, r = 40. Parameters per map: `r (in + M out) + M in`. Cost: `r (in + M out)` products.
    """

    rank: int = option(40, "rank r")
    experts: int = option(3, "number of experts M")
    scale: float = option(2.0, "factor s of the update, alpha/r")

    name = "hydralora"
    paper = f"{HYDRALORA}, eq 5; {MOORE}, Table 5"

    def __post_init__(self) -> None:
        check_sizes(self.rank, self.experts)

    def update(self, base: nn.Module, place: Place) -> TrainedUpdate:
        return HydraloraUpdate(base, self)
