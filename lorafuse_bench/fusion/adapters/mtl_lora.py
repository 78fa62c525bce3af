"""MTL-LoRA: one A, a transform per task, several B mixed by task."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorafuse_bench.fusion.adapters.mixture import check_sizes, weighted
from lorafuse_bench.fusion.adapters.trained import (
    Place,
    TrainedAdapter,
    TrainedUpdate,
    kaiming_,
    parameter,
    shape_of,
)
from lorafuse_bench.fusion.base import option
from lorafuse_bench.fusion.papers import MOORE, MTL_LORA
from lorafuse_bench.fusion.registry import register
from lorafuse_bench.layers import AddedUpdate, add_product


class MtlLoraUpdate(TrainedUpdate, AddedUpdate):
    """`y + s B (g_k ⊗ Λ_k A x)`, `A (r, in)`, `Λ (K, r, r)`, `B (out, M r)`, `g_k = softmax(w_k/τ)`, `w (K, M)`."""

    def __init__(self, base: nn.Module, place: Place, o: MtlLora) -> None:
        super().__init__()
        out, into = shape_of(base)
        self.place, self.o = place, o
        self.A, self.B = parameter(base, o.rank, into), parameter(base, out, o.experts * o.rank)
        self.Lambda = parameter(base, place.tasks, o.rank, o.rank)
        self.w = parameter(base, place.tasks, o.experts)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        kaiming_(self.A, generator)
        self.B.zero_()
        self.Lambda.copy_(torch.eye(self.o.rank).expand_as(self.Lambda))
        kaiming_(self.w, generator)  # equal weights would keep the experts equal for ever

    def gates(self, x: Tensor) -> Tensor:
        return (self.place.of_task(self.w, x) / self.o.temperature).softmax(-1)[:, None]

    def add_to(self, y: Tensor, x: Tensor) -> Tensor:
        transform = self.place.of_task(self.Lambda, x)
        hidden = F.linear(x, self.A) @ transform.transpose(1, 2)
        return add_product(y, self.o.scale * weighted(hidden[..., None, :], self.gates(x)), self.B)


@register
@dataclass(frozen=True)
class MtlLora(TrainedAdapter):
    """MTL-LoRA: `y = Wx + s Σ_m softmax(w_k/τ)_m B_m Λ_k A x` for a row of task k.

    `A (r, in)`, `B_m (out, r)` zero at the start, `Λ_k (r, r)` the identity, `w_k (M,)`. A task that was not
    trained on gets the mean of the `w_k` and of the `Λ_k`: the paper has no rule, this is MoORE's. Source: Yang
    et al. 2025, eq 4-6; sizes of MoORE's Table 5: M = 3, r = 40. Parameters per map:
    `r (in + M out) + K (r² + M)`. Cost: `r (in + r + M out)` products.
    """

    rank: int = option(40, "rank r")
    experts: int = option(3, "number of up-projections M")
    temperature: float = option(0.1, "temperature τ of the tasks' weights")
    scale: float = option(2.0, "factor s of the update, alpha/r")

    name = "mtl_lora"
    needs = frozenset({"adapter", "task_id"})
    paper = f"{MTL_LORA}, eq 4-6; {MOORE}, Table 5"

    def __post_init__(self) -> None:
        check_sizes(self.rank, self.experts)
        if self.temperature <= 0:
            raise ValueError("temperature must be positive.")

    def update(self, base: nn.Module, place: Place) -> TrainedUpdate:
        return MtlLoraUpdate(base, place, self)
