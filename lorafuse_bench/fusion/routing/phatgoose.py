"""PHATGOOSE: each expert learns a gate from its own rows; the gates, standardised, route tokens of all tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion.base import Family, Runtime, option
from lorafuse_bench.fusion.fitted import Fitted, Fitting, Parameters, Passes
from lorafuse_bench.fusion.papers import PHATGOOSE
from lorafuse_bench.fusion.registry import register
from lorafuse_bench.fusion.routing.gates import AtMost, mixed, softmax_top_k
from lorafuse_bench.layers import GatedUpdate, Update

SMALLEST = 1e-6
"""Standard deviation below which a vector counts as constant."""


@register
@dataclass(frozen=True)
class Phatgoose(Fitted):
    """Per token and linear map: softmax over the k experts whose standardised gates fit the standardised input best.

    Fit: for each expert alone, on its own tasks' rows, a gate `v_i (in,)` per linear map, from 0, in
    `y = Wx + σ(v_i · x) s_i B_i A_i x`; expert and base frozen, 100 steps of Adam. Use: `v̄` and `x̄` have mean 0 and
    standard deviation 1 over their entries; logits `v̄_i · x̄ / √in`, softmax over the k largest;
    `y = Wx + Σ_i g_i s_i B_i A_i x`. An expert none of whose tasks is in the suite keeps a gate of 0. The start of v is
    ours. Source: Muqeeth et al. 2024. Needs a fit. Cost: two matmuls of all experts' ranks and N more directions per
    token.
    """

    k: int = option(AtMost(2), "experts mixed per token; the paper's 2")
    steps: int = option(100, "steps that each expert's gates learn for")

    name = "phatgoose"
    family: ClassVar[Family] = "routing"
    paper = PHATGOOSE
    absent_experts = "no candidates"
    at_use: ClassVar[frozenset[str]] = frozenset({"k"})

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise LorafuseError(f"method 'phatgoose': steps={self.steps} must be at least 1.")

    def check(self, pool: ExpertPool) -> None:
        super().check(pool)
        mixed(self.name, self.k, len(pool))

    def budget(self, experts: int) -> Passes:
        return {"steps": self.steps * experts}

    def fit(self, fitting: Fitting) -> dict[str, Tensor]:
        pool = fitting.runtime.pool
        gates = {name: torch.zeros(len(pool), stack.shape[1]) for name, stack in pool.modules.items()}
        for i, expert in enumerate(pool.experts):
            own = [task for task in expert.tasks if task in fitting.tasks]
            if not own:
                continue
            found = fitting.descend(
                {name: gate[i] for name, gate in gates.items()},
                partial(alone, pool, i),
                tasks=own,
                steps=self.steps,
                part=expert.name,
            )
            for name, gate in found.items():
                gates[name][i] = gate.detach().cpu()
        return gates

    def updates(self, runtime: Runtime) -> Mapping[str, Update]:
        k = mixed(self.name, self.k, len(runtime.pool))
        found = runtime.artefact(self).tensors
        return {
            module: Standardised(
                stack.A,
                stack.B,
                _probed,
                partial(softmax_top_k, k=k),
                absent=[rank == 0 for rank in stack.ranks],
                probes=standardised(found[module].to(stack.A.device)),
            )
            for module, stack in runtime.pool.modules.items()
        }


class Standardised(GatedUpdate):
    """Gates from standardised inputs: as the probes have mean 0, only the input's standard deviation matters."""

    def rated(self, hidden: Tensor, probed: Tensor, x: Tensor) -> Tensor:
        deviation = x.to(probed.dtype).std(-1, unbiased=False, keepdim=True).clamp(min=SMALLEST)
        return probed / deviation * x.shape[-1] ** -0.5


def standardised(gates: Tensor) -> Tensor:
    """`gates (N, in)`, each with mean 0 and standard deviation 1; constant ones are 0."""
    centred = gates - gates.mean(-1, keepdim=True)
    return centred / gates.std(-1, unbiased=False, keepdim=True).clamp(min=SMALLEST)


def alone(pool: ExpertPool, expert: int, gates: Parameters) -> dict[str, Update]:
    """One expert's updates, each times the sigmoid of its `gates (in,)`; differentiable in them."""
    return {
        module: GatedUpdate(
            stack.A[expert : expert + 1],
            stack.B[expert : expert + 1],
            _probed,
            torch.sigmoid,
            absent=[False],
            probes=gates[module][None],
        )
        for module, stack in pool.modules.items()
    }


def _probed(hidden: Tensor, probed: Tensor) -> Tensor:
    return probed
