"""OMoE: LoRA experts whose outputs are made orthonormal for every token."""

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
from lorafuse_bench.fusion.papers import MOORE, OMOE
from lorafuse_bench.fusion.registry import register
from lorafuse_bench.layers import AddedUpdate, add_product


class OmoeUpdate(RoutedUpdate, AddedUpdate):
    """`y + s Σ_m g_m q_m`, `q = GS(e)`, `e_m = B_m A_m x`; `A (M r, in)`, `B (out, M r)`.

    The outputs `E = [e_1 ... e_M]` are never built: with `EᵀE = C Cᵀ` (Cholesky) Gram-Schmidt gives
    `E C⁻ᵀ`, so `Σ g_m q_m = E c` with `c = C⁻ᵀ g`, again a weighting in rank space.
    """

    def __init__(self, base: nn.Module, o: Omoe) -> None:
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
        return add_product(
            y, self.o.scale * weighted(hidden, self._coefficients(hidden, self.gates(x))), self.B
        )

    def _coefficients(self, hidden: Tensor, gates: Tensor) -> Tensor:
        """`c (..., M)` from `hidden (..., M, r)`: solves `Cᵀ c = g`."""
        with torch.autocast(hidden.device.type, enabled=False):
            h = hidden.to(gates.dtype)
            B = self.B.to(gates.dtype).unflatten(1, (self.o.experts, self.o.rank))
            products = torch.einsum("omr,ons->mrns", B, B)
            gram = torch.einsum("...mr,mrns,...ns->...mn", h, products, h)
            mean = gram.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
            one = torch.eye(self.o.experts, dtype=gram.dtype, device=gram.device)
            lower = torch.linalg.cholesky(gram + self.o.epsilon * (1 + mean) * one)
            return torch.linalg.solve_triangular(lower.mT, gates[..., None], upper=True)[..., 0]


@register
@dataclass(frozen=True)
class Omoe(TrainedAdapter):
    """OMoE: `y = Wx + s Σ_m softmax(S x)_m q_m`, `[q_1 ... q_M]` Gram-Schmidt of the outputs `B_m A_m x`.

    `A_m (r, in)`, `B_m (out, r)` zero at the start, `S (M, in)`. At B = 0 Gram-Schmidt is undefined: as in
    a ridge, `ε (1 + mean ‖e_m‖²)` is added to the outputs' squared lengths, which makes the start the base and
    leaves lengths 1 and angles 90° up to about ε once the outputs are well above √ε. Sources: Feng et al. 2025;
    MoORE, Table 1. No paper gives sizes to compare with: ours have the rank of MoORE's `lora`, M r = 64.
    Parameters per map: `M r (in + out) + M in`. Cost: a LoRA of rank M r, `M² r²` products and one small
    factorisation per token.
    """

    rank: int = option(16, "rank r of each expert")
    experts: int = option(4, "number of experts M")
    scale: float = option(2.0, "factor s of the update, alpha/r")
    epsilon: float = option(1e-5, "ridge ε")

    name = "omoe"
    paper = f"{OMOE}; {MOORE}, Table 1"

    def __post_init__(self) -> None:
        check_sizes(self.rank, self.experts)
        if self.epsilon <= 0:
            raise ValueError("epsilon must be positive.")

    def update(self, base: nn.Module, place: Place) -> TrainedUpdate:
        return OmoeUpdate(base, self)
