"""Fisher merging: every weight of the updates averaged by how much each expert's answers depend on it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion.base import Merged, Runtime
from lorafuse_bench.fusion.fitted import Fitting, Parameters
from lorafuse_bench.fusion.merging.elementwise import products
from lorafuse_bench.fusion.merging.own_rows import OwnRowsMerge
from lorafuse_bench.fusion.papers import FISHER
from lorafuse_bench.fusion.registry import register

TINY = 1e-30
"""Added to the Fisher information, so that weights on which no answer hangs get the mean."""


@register
@dataclass(frozen=True)
class Fisher(OwnRowsMerge):
    """The experts' updates averaged weight by weight, by their diagonal Fisher information.

    `ΔW = Σ_i F_i ⊙ s_i B_i A_i / Σ_i F_i (out, in)`, as the base's weights drop out; `F_i = E (∂ log p(y | x)/∂W)²`
    over rows x of expert i's own tasks, under expert i, and answers y of the model itself: one token drawn at each
    position of the row's answer, given what the row says before it. A row's gradient is summed over its answer before
    it is squared. Experts count alike. An expert that does not adapt a map is a zero update there, with its F_i.
    Source: Matena and Raffel 2022; their merge, on the same F_i, is this one to 2e-16. Needs a fit. Cost: one
    full-rank update; a fit keeps one F_i per expert.
    """

    name = "fisher"
    paper = FISHER
    gathered = "Fisher information"

    def start(self, runtime: Runtime) -> dict[str, Tensor]:
        """With equal information: the mean update `(out, in)` of every map."""
        pool = runtime.pool
        equal = [{m: torch.ones(stack.shape) for m, stack in pool.modules.items()}] * len(pool)
        return averaged(pool, equal)

    def merged(self, pool: ExpertPool, parameters: Parameters) -> Merged:
        return Merged(
            dense={module: parameters[module].to(stack.A) for module, stack in pool.modules.items()}
        )

    def gather(self, fitting: Fitting, expert: int) -> dict[str, Tensor]:
        """`F_i (out, in)` of every map: the mean over rows of `(gᵀ x)²`."""
        pool = fitting.runtime.pool
        found = {m: torch.zeros(stack.shape, device=stack.A.device) for m, stack in pool.modules.items()}
        rows = dict.fromkeys(found, 0)

        def see(module: str, x: Tensor, gradient: Tensor) -> None:
            found[module] += (gradient.float().T @ x.float()).square()
            rows[module] += 1

        fitting.gradients(expert, self.rows, see)
        return {module: total / max(1, rows[module]) for module, total in found.items()}

    def solved(self, pool: ExpertPool, found: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return averaged(pool, found)


def averaged(pool: ExpertPool, information: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """`Σ F_i ⊙ ΔW_i / Σ F_i` of every map, for each expert's `F_i` by map."""
    merged = {}
    for module, stack in pool.modules.items():
        weights = [each[module].to(stack.A) + TINY for each in information]
        weighted = sum(w * update for w, update in zip(weights, products(stack), strict=True))
        merged[module] = weighted / sum(weights)
    return merged  # type: ignore[return-value]
