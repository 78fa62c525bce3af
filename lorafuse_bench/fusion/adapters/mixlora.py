"""MixLoRA: every FFN block as a mixture of copies that differ by LoRA, two per token."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorafuse_bench.base_model import Base
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion.adapters.lora import LoraUpdate
from lorafuse_bench.fusion.adapters.mixture import RoutedUpdate, check_sizes, load_loss
from lorafuse_bench.fusion.adapters.trained import (
    Place,
    TrainedAdapter,
    TrainedUpdate,
    kaiming_,
    linear_maps,
    parameter,
    shape_of,
)
from lorafuse_bench.fusion.base import option
from lorafuse_bench.fusion.papers import MIXLORA, MOORE
from lorafuse_bench.fusion.registry import register
from lorafuse_bench.layers import add_product

MAPS = ("gate_proj", "up_proj", "down_proj")


class MixloraUpdate(RoutedUpdate):
    """`Σ_m g_m FFN_m(x)`, every map of `FFN_m` being `W + s B_m A_m`; g the k largest of `softmax(S x)`.

    `A_<map> (M r, in)`, `B_<map> (out, M r)`. W runs once per token; the k inner states of a token must
    be built, as they pass a non-linearity, but what makes them differ stays in rank space.
    """

    def __init__(self, base: nn.Module, o: Mixlora) -> None:
        shapes = {name: shape_of(base.get_submodule(name)) for name in MAPS}
        super().__init__(base, o.experts, shapes["up_proj"][1], o.k)
        self.o = o
        for name, (out, into) in shapes.items():
            self.register_parameter(f"A_{name}", parameter(base, o.experts * o.rank, into))
            self.register_parameter(f"B_{name}", parameter(base, out, o.experts * o.rank))

    def reset(self, generator: torch.Generator) -> None:
        super().reset(generator)
        for name in MAPS:
            kaiming_(self.get_parameter(f"A_{name}"), generator)
            nn.init.zeros_(self.get_parameter(f"B_{name}"))

    def output(self, base: nn.Module, x: Tensor) -> Tensor:
        values, index = self.route(x).topk(self.o.k, dim=-1)
        weights = (values / values.sum(-1, keepdim=True)).to(x.dtype)[..., None]
        chosen = F.one_hot(index, self.o.experts).to(x.dtype)  # (..., k, M)
        gate, up = (self._expanded(base, name, x, chosen) for name in MAPS[:2])
        inner = base.get_submodule("act_fn")(gate) * up
        down: Tensor = base.get_submodule("down_proj")((inner * weights).sum(-2))
        hidden = (self._hidden("down_proj", inner, chosen) * weights).sum(-2)
        return add_product(down, hidden, self.get_parameter("B_down_proj"))

    def _expanded(self, base: nn.Module, name: str, x: Tensor, chosen: Tensor) -> Tensor:
        """`(..., k, out)`: `(W + s B_m A_m) x` for the k chosen experts."""
        y: Tensor = base.get_submodule(name)(x)
        repeated = y[..., None, :].expand(*y.shape[:-1], self.o.k, -1).contiguous()
        return add_product(
            repeated, self._hidden(name, x[..., None, :], chosen), self.get_parameter(f"B_{name}")
        )

    def _hidden(self, name: str, x: Tensor, chosen: Tensor) -> Tensor:
        """`(..., k, M r)`: `s A_m x` at the chosen expert of each slot, 0 at the others."""
        hidden = F.linear(x, self.get_parameter(f"A_{name}")).unflatten(-1, (self.o.experts, self.o.rank))
        return self.o.scale * (hidden * chosen[..., None]).flatten(-2)

    def auxiliary(self, mask: Tensor) -> Tensor | None:
        assert self.probabilities is not None
        return self.o.balance * load_loss(self.probabilities, mask, self.o.k)


@register
@dataclass(frozen=True)
class Mixlora(TrainedAdapter):
    """MixLoRA: `FFN(x) = Σ_m g_m FFN_m(x)`, each FFN_m the base's with `s B_m A_m` on its three maps.

    One router per block, `g` the k largest of `softmax(S x)` over their sum, `S (M, in)`; a plain LoRA of the
    same rank on the attention's maps (`targets` says which). Adds `balance · M Σ f_m P_m` to the loss, f_m the
    share of tokens that reach expert m, P_m its mean probability. Source: Li et al. 2024, eq 3-8; sizes of
    MoORE's Table 5: M = 8, r = 16. Parameters per block: `M r Σ (in + out) + M in`, and the attention's LoRAs.
    Cost: W of the FFN once, k inner states per token, LoRAs of rank M r.
    """

    rank: int = option(16, "rank r of each expert, and of the attention's LoRA")
    experts: int = option(8, "number of experts M")
    k: int = option(2, "experts per token")
    scale: float = option(2.0, "factor s of the update, alpha/r")
    balance: float = option(0.001, "weight of the load loss")

    name = "mixlora"
    paper = f"{MIXLORA}, eq 3-8; {MOORE}, Table 5"

    def __post_init__(self) -> None:
        check_sizes(self.rank, self.experts, self.k)

    def update(self, base: nn.Module, place: Place) -> TrainedUpdate:
        if hasattr(base, MAPS[0]):
            return MixloraUpdate(base, self)
        return LoraUpdate(base, self.rank, self.scale)

    def adapted(self, base: Base) -> dict[str, nn.Module]:
        ffns = {name for name, module in base.modules.items() if all(hasattr(module, part) for part in MAPS)}
        if not ffns:
            raise LorafuseError(
                f"method '{self.name}' needs FFN blocks of {', '.join(MAPS)}, which this base does not have."
                " Choose another method or base."
            )
        linears = linear_maps(base, self.targets)
        chosen = {name for name in linears if name.rpartition(".")[0] not in ffns} | ffns
        return {name: module for name, module in base.modules.items() if name in chosen}
