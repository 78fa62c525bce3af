"""Distillation: one LoRA that answers as the ensemble of the experts does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lorafuse_bench.fusion.base import Law, option, static_updates
from lorafuse_bench.fusion.ensembling.ensemble import Ensemble
from lorafuse_bench.fusion.fitted import Fitting, OneLora, Passes
from lorafuse_bench.fusion.papers import TRADEOFFS
from lorafuse_bench.fusion.registry import register


@register
@dataclass(frozen=True)
class Distill(OneLora):
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
        laws: tuple[Law, ...] = (
            "one expert is itself",
            "copies of one expert are it",
            "scale of the updates",
        )
        return dict.fromkeys(laws, "it is learned from the experts' outputs")

    def budget(self, experts: int) -> Passes:
        return {}

    def fit(self, fitting: Fitting) -> dict[str, Tensor]:
        pool = fitting.runtime.pool
        weights = torch.full((len(pool),), 1 / len(pool))
        if self.teacher == "sgd":
            weights = fitting.learned(Ensemble(weights="sgd"))["weights"]
        return fitting.distil(
            self.student(pool, fitting.seed),
            lambda found: static_updates(self.merged(pool, found)),
            weights,
        )
