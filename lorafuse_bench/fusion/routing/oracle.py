"""The oracle: each task's own expert."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lorafuse_bench.fusion.base import Prompts, RowRouting, Runtime
from lorafuse_bench.fusion.papers import RETHINKING
from lorafuse_bench.fusion.registry import register


@register
@dataclass(frozen=True)
class Oracle(RowRouting):
    """Each row uses the expert trained on its task: `y = Wx + s_t B_t A_t x`, t the row's task.

    The reference that scores are normalised by, not a competitor: it is told the task. Refuses tasks
    without an expert. Cost: one LoRA, gathered per row.
    """

    name = "oracle"
    family = "reference"
    needs = frozenset({"task_id"})
    paper = f"{RETHINKING}, section 4.2"

    def select(self, runtime: Runtime, prompts: Prompts) -> Tensor:
        index = [runtime.pool.index_of_task(task) for task in prompts.tasks]
        return (
            torch.tensor(index, device=prompts.input_ids.device)[:, None].expand(-1, runtime.blocks).clone()
        )
