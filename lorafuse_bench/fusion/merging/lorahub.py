"""LoraHub: the factors' weights for a task, found without gradients from a few of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from scipy.optimize import minimize
from torch import Tensor

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool, ModuleStack
from lorafuse_bench.fusion.base import (
    Family,
    Law,
    Merged,
    Need,
    Prompts,
    Runtime,
    option,
    static_updates,
)
from lorafuse_bench.fusion.fitted import Fitted, Fitting, Passes
from lorafuse_bench.fusion.merging.merge_sgd import average
from lorafuse_bench.fusion.papers import LORAHUB
from lorafuse_bench.fusion.registry import register
from lorafuse_bench.layers import BASE, RowUpdate, Update

LARGEST = 1.5
PENALTY = 0.05


@register
@dataclass(frozen=True)
class Lorahub(Fitted):
    """Each task has one adapter of factors summed with weights found on a few of its rows.

    `Â = Σ_i w_i A_i`, `B̂ = Σ_i w_i s_i B_i`, `ΔW = B̂ Â` (merge-before), `w (N,)` in [−1.5, 1.5] from 0, minimising
    nats per token over the first `shots` rows plus .05 Σ|w_i|. Gradient-free, by COBYQA of scipy, which is
    deterministic, in place of the paper's nevergrad. Rows of other tasks than were fitted run the base.
    Source: Huang et al. 2023, section 3. Needs a fit and the rows' task. Cost: one LoRA, gathered per row.
    """

    shots: int = option(5, "rows of each task that weights are found on; the paper's 5")
    evaluations: int = option(40, "losses computed per task at most; the paper's 40")

    name = "lorahub"
    family: ClassVar[Family] = "merging"
    needs: ClassVar[frozenset[Need]] = frozenset({"fit", "task_id"})
    paper = LORAHUB

    def __post_init__(self) -> None:
        if self.shots < 1 or self.evaluations < 1:
            raise LorafuseError("method 'lorahub': shots and evaluations must be at least 1.")

    @property
    def merge_before(self) -> bool:
        return True

    @property
    def laws_broken(self) -> dict[Law, str]:
        laws: tuple[Law, ...] = ("one expert is itself", "copies of one expert are it")
        return super().laws_broken | dict.fromkeys(laws, "weights are found, and need not sum to 1")

    def budget(self, experts: int) -> Passes:
        return {"rows": self.shots, "epochs": self.evaluations}

    def fit(self, fitting: Fitting) -> dict[str, Tensor]:
        pool = fitting.runtime.pool

        def objective(weights: Any, task: str) -> float:
            adapter = summed(pool, torch.tensor(weights, dtype=torch.float32))
            loss = fitting.loss(static_updates(adapter), task, self.shots)
            return loss + PENALTY * float(abs(weights).sum())

        found = [
            minimize(
                objective,
                [0.0] * len(pool),
                args=(task,),
                method="COBYQA",
                bounds=[(-LARGEST, LARGEST)] * len(pool),
                options={"maxfev": self.evaluations},
            ).x
            for task in fitting.tasks
        ]
        return {"weights": torch.tensor([list(w) for w in found], dtype=torch.float32)}

    def updates(self, runtime: Runtime) -> Mapping[str, Update]:
        weights = (
            runtime.artefact(self).tensors["weights"].to(next(iter(runtime.pool.modules.values())).A.device)
        )
        found: dict[str, Update] = {}
        for module, stack in runtime.pool.modules.items():
            a = torch.einsum("tn,nri->tri", weights, stack.A.float())
            b = torch.einsum("tn,nor->tor", weights, stack.B.float())
            tasks = ModuleStack(a, b, torch.ones(len(weights)), (a.shape[1],) * len(weights))
            found[module] = RowUpdate(
                tasks, runtime.selection, runtime.base.block_of(module), scattered=".experts." in module
            )
        return found

    def select(self, runtime: Runtime, prompts: Prompts) -> Tensor:
        tasks = runtime.artefact(self).tasks
        index = [tasks.index(task) if task in tasks else BASE for task in prompts.tasks]
        column = torch.tensor(index, device=prompts.input_ids.device)[:, None]
        return column.expand(-1, runtime.base.blocks).clone()


def summed(pool: ExpertPool, weights: Tensor) -> Merged:
    """`(Σ w_i A_i, Σ w_i s_i B_i)` of every module."""
    return Merged({module: average(pool, module, weights) for module in pool.modules})
