"""Routing learned end to end: a linear router before every adapted linear map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion.base import Family, Runtime, option
from lorafuse_bench.fusion.fitted import Fitted, Fitting, Parameters, Passes
from lorafuse_bench.fusion.papers import TRADEOFFS
from lorafuse_bench.fusion.registry import register
from lorafuse_bench.fusion.routing.gates import expert_svd, mixed, softmax_top_k
from lorafuse_bench.layers import GatedUpdate, Update


@register
@dataclass(frozen=True)
class RoutingSgd(Fitted):
    """Per token and linear map: experts merged with weights that a learned linear map of the input gives.

    `λ(x) (N,) = softmax(W x)`, `W (N, in)` per linear map; `y = Wx + (Σ_i λ_i s_i B_i)(Σ_j λ_j A_j) x`
    (merge-before), over all experts. Learned by Adam on the tasks' loss, experts and base frozen, no task id.
    `init=zero` starts as the uniform merge, `arrow` at the experts' prototypes. `k` renormalises the k largest
    weights at inference only. An expert that does not adapt a map has zero factors there and keeps its weight.
    Source: trade-offs, sections 4.4 and 5, appendix B.4. Needs a fit. Cost: two matmuls of all experts' ranks and N
    more directions per token.
    """

    init: Literal["zero", "arrow"] = option("zero", "what W starts from: 0, or Arrow's prototypes")
    k: int | Literal["all"] = option("all", "experts kept per token at inference, or all")

    name = "routing_sgd"
    family: ClassVar[Family] = "routing"
    paper = f"{TRADEOFFS}, sections 4.4 and 5"
    at_use: ClassVar[frozenset[str]] = frozenset({"k"})

    @property
    def merge_before(self) -> bool:
        return True

    def check(self, pool: ExpertPool) -> None:
        super().check(pool)
        mixed(self.name, self.k, len(pool))

    def start(self, runtime: Runtime) -> dict[str, Tensor]:
        """W of every linear map by its name."""
        modules = runtime.pool.modules
        if self.init == "zero":
            return {name: torch.zeros(len(runtime.pool), stack.shape[1]) for name, stack in modules.items()}
        return {name: expert_svd(stack)[2][:, 0].contiguous() for name, stack in modules.items()}

    def budget(self, experts: int) -> Passes:
        return {}

    def fit(self, fitting: Fitting) -> dict[str, Tensor]:
        pool = fitting.runtime.pool
        return fitting.descend(self.start(fitting.runtime), lambda found: routed(pool, found, len(pool)))

    def updates(self, runtime: Runtime) -> Mapping[str, Update]:
        k = mixed(self.name, self.k, len(runtime.pool))
        return routed(runtime.pool, runtime.artefact(self).tensors, k)


def routed(pool: ExpertPool, maps: Parameters, k: int) -> dict[str, Update]:
    """The updates under the maps W of all modules, differentiable in them."""
    return {
        module: GatedUpdate(
            stack.A,
            stack.B,
            _probed,
            partial(softmax_top_k, k=k) if k < len(pool) else _softmax,
            absent=[False] * len(pool),
            merge="before",
            probes=maps[module].to(stack.A.device),
        )
        for module, stack in pool.modules.items()
    }


def _probed(hidden: Tensor, probed: Tensor) -> Tensor:
    return probed


def _softmax(scores: Tensor) -> Tensor:
    return scores.softmax(-1)
