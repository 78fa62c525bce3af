"""Distillation: one LoRA that answers as the ensemble of the experts does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion.base import Adapter, Law, option, static_updates
from lorafuse_bench.fusion.ensembling.ensemble import mixture_loss
from lorafuse_bench.fusion.fitted import FittedMerge, Fitting, Parameters
from lorafuse_bench.fusion.papers import TRADEOFFS
from lorafuse_bench.fusion.registry import register


@register
@dataclass(frozen=True)
class Distill(FittedMerge):
    """One LoRA trained to give the ensemble's next-token distributions.

    `KL(p_teacher ‖ p_student)` at temperature 1, at the target positions of all tasks' rows, no task id. Teacher: the
    mixture `Σ_i λ_i p_i` of `ensemble:weights=sgd`, or of equal weights (`teacher=uniform`). The student has the
    experts' modules and the largest of their ranks, A uniform in ±1/√in, B = 0, scaling 1.
    Source: trade-offs, section 3.2.2. Needs a fit. Cost: one LoRA; a fit runs all experts on every row.
    """

    teacher: Literal["sgd", "uniform"] = option("sgd", "weights of the ensemble that it learns from")

    name = "distill"
    paper = f"{TRADEOFFS}, section 3.2.2"

    @property
    def laws_broken(self) -> dict[Law, str]:
        return {"one expert is itself": "it is learned from its outputs"}

    def student(self, pool: ExpertPool, seed: int) -> dict[str, Tensor]:
        """What the student starts from: `<module>.A` and `<module>.B` of every adapted module."""
        generator = torch.Generator().manual_seed(seed)
        found: dict[str, Tensor] = {}
        for module, stack in pool.modules.items():
            out, into = stack.shape
            rank = stack.A.shape[1]
            found[f"{module}.A"] = (torch.rand(rank, into, generator=generator) * 2 - 1) * into**-0.5
            found[f"{module}.B"] = torch.zeros(out, rank)
        return found

    def fit(self, fitting: Fitting) -> dict[str, Tensor]:
        pool = fitting.runtime.pool
        logits = torch.zeros(len(pool))
        if self.teacher == "sgd":
            logits = fitting.mix({"logits": logits}, mixture_loss, "teacher")["logits"]
        return fitting.distil(
            self.student(pool, fitting.seed),
            lambda found: static_updates(self.merged(pool, found)),
            logits.softmax(-1),
        )

    def merged(self, pool: ExpertPool, parameters: Parameters) -> Adapter:
        return Adapter(
            {module: (parameters[f"{module}.A"], parameters[f"{module}.B"]) for module in pool.modules}
        )
