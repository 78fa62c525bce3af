"""lora: one LoRA for all tasks, the shared expert."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lorafuse_bench.fusion.adapters.trained import (
    Place,
    TrainedAdapter,
    TrainedUpdate,
    kaiming_,
    parameter,
    shape_of,
)
from lorafuse_bench.fusion.base import option
from lorafuse_bench.fusion.papers import LORA, MOORE
from lorafuse_bench.fusion.registry import register
from lorafuse_bench.layers import AddedUpdate, add_product


class LoraUpdate(TrainedUpdate, AddedUpdate):
    """`y + s B A x`, `A (r, in)`, `B (out, r)`."""

    def __init__(self, base: nn.Module, rank: int, scale: float) -> None:
        super().__init__()
        out, into = shape_of(base)
        self.scale = scale
        self.A, self.B = parameter(base, rank, into), parameter(base, out, rank)

    def reset(self, generator: torch.Generator) -> None:
        kaiming_(self.A, generator)
        nn.init.zeros_(self.B)

    def add_to(self, y: Tensor, x: Tensor) -> Tensor:
        return add_product(y, self.scale * nn.functional.linear(x, self.A), self.B)


@register
@dataclass(frozen=True)
class Lora(TrainedAdapter):
    """One LoRA trained on all tasks at once (the shared expert): `y = Wx + s B A x`.

    `A (r, in)` uniform in ±1/sqrt(in), `B (out, r)` zero. Source: Hu et al. 2021, eq 3; as the baseline of
    MoORE, Table 5: r = 64 on all linear maps, `r (in + out)` parameters each. `s` is PEFT's alpha/r.
    Cost: one LoRA.
    """

    rank: int = option(64, "rank r")
    scale: float = option(2.0, "factor s of the update, alpha/r")

    name = "lora"
    paper = f"{LORA}, eq 3; {MOORE}, Table 5"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank={self.rank} must be at least 1.")

    def update(self, base: nn.Module, place: Place) -> TrainedUpdate:
        return LoraUpdate(base, self.rank, self.scale)
