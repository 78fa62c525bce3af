"""Arrow: each expert's first singular direction is its prototype."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion.base import FusionMethod, Runtime, option
from lorafuse_bench.fusion.papers import ARROW, SPECTR
from lorafuse_bench.fusion.registry import register
from lorafuse_bench.fusion.routing.gates import AtMost, combined, first_directions, mixed, softmax_top_k
from lorafuse_bench.layers import GatedUpdate, Update


@register
@dataclass(frozen=True)
class Arrow(FusionMethod):
    """Per token and linear map: softmax over the k experts whose prototypes the input fits best.

    `p_i (in,)` is the first right singular vector of `s_i B_i A_i`, by exact SVD; logits `|p_i · x|`;
    `g = softmax(top-k logits / temperature)`; `y = Wx + Σ_i g_i s_i B_i A_i x`. With `merge=before` the
    factors are combined first: `(Σ g_i s_i B_i)(Σ g_j A_j) x`. Logits are not normalised: scaling x
    sharpens the gates. Experts that do not adapt a module are no candidates there.
    Sources: Ostapenko et al. 2024, section 4.2 (the original merges before); SpectR, eq 2-5.
    No factor is copied: `p_i` is a combination of the rows of A_i. Cost: two matmuls of all experts' ranks per token
    (`before`: and N more directions).
    """

    k: int | Literal["all"] = option(
        AtMost(4), "experts mixed per token, or all; the papers' 4, or all of fewer (PEFT has 3)"
    )
    temperature: float = option(1.0, "divides the logits")
    merge: Literal["after", "before"] = option("after", "combine products (after) or factors (before)")

    name = "arrow"
    family = "routing"
    absent_experts = "no candidates"
    paper = f"{ARROW}; {SPECTR}, eq 2-5"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise LorafuseError(f"method 'arrow': temperature={self.temperature} must be above 0.")

    @property
    def merge_before(self) -> bool:
        return self.merge == "before"

    def check(self, pool: ExpertPool) -> None:
        super().check(pool)
        mixed(self.name, self.k, len(pool))

    def updates(self, runtime: Runtime) -> Mapping[str, Update]:
        k = mixed(self.name, self.k, len(runtime.pool))
        weigh = partial(softmax_top_k, k=k, temperature=self.temperature)
        updates: dict[str, Update] = {}
        for module, stack in runtime.pool.modules.items():
            first = first_directions(stack)
            absent = [rank == 0 for rank in stack.ranks]
            if self.merge == "after":
                # The prototypes' logits are then made of the hidden numbers: `p_i · x = t_i A_i x`.
                updates[module] = GatedUpdate(stack.A, stack.B, _first, weigh, absent, inner=first)
            else:
                probes = combined(first, stack.A)
                updates[module] = GatedUpdate(
                    stack.A, stack.B, _probed, weigh, absent, merge="before", probes=probes
                )
        return updates


def _first(hidden: Tensor, probed: Tensor) -> Tensor:
    """`|p_i · x|`, the one number of each expert."""
    return hidden[..., 0, :].abs()


def _probed(hidden: Tensor, probed: Tensor) -> Tensor:
    """`|p_i · x|`, from the probes' outputs."""
    return probed.abs()
