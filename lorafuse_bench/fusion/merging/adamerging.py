"""AdaMerging: weights of the experts' updates that make the model sure of its answers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion.base import Law, Merged, Runtime, static_updates
from lorafuse_bench.fusion.fitted import Fitting, Parameters, groups
from lorafuse_bench.fusion.merging.lora_soups import LoraSoups
from lorafuse_bench.fusion.papers import ADAMERGING
from lorafuse_bench.fusion.registry import register

START = 0.3
RATES = (1e-3,)


@register
@dataclass(frozen=True)
class Adamerging(LoraSoups):
    """The weighted sum of the experts' updates, with weights that minimise the entropy of answers.

    `ΔW = Σ_i clamp(λ_gi, 0, 1) s_i B_i A_i`, one LoRA as in `lora_soups`; λ starts at .3, learned by Adam at 1e-3 on
    the entropy in nats of the first answer token after the prompts of all tasks: targets are not read. `scope=module`:
    λ of its own for every linear map, the paper's layer-wise form; `global`: one per expert, its task-wise form. The
    prompts are of fit rows, where the paper takes those of the test; of the answers of several tokens only the first
    is asked for (ours). Source: Yang et al. 2024 (AdaMerging). Needs a fit. Cost: one LoRA of rank `Σ r_i`.
    """

    name = "adamerging"
    paper = ADAMERGING

    @property
    def laws_broken(self) -> dict[Law, str]:
        start = "weights start at .3, and no target says what they should be"
        return {"one expert is itself": start, "copies of one expert are it": start}

    def start(self, runtime: Runtime) -> dict[str, Tensor]:
        """`weights`, the λ, `(groups, N)`."""
        pool = runtime.pool
        return {"weights": torch.full((max(groups(pool, self.scope).values()) + 1, len(pool)), START)}

    def fit(self, fitting: Fitting) -> dict[str, Tensor]:
        pool = fitting.runtime.pool
        return fitting.sharpen(
            self.start(fitting.runtime), lambda found: static_updates(self.merged(pool, found)), RATES
        )

    def merged(self, pool: ExpertPool, parameters: Parameters) -> Merged:
        return super().merged(pool, {"weights": parameters["weights"].clamp(0, 1)})
