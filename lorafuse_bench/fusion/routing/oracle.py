"""The oracle: each task's own expert; and its floor, each task a wrong one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion.base import Law, Prompts, RowRouting, Runtime, option
from lorafuse_bench.fusion.papers import RETHINKING
from lorafuse_bench.fusion.registry import register


@register
@dataclass(frozen=True)
class Oracle(RowRouting):
    """Each row uses the expert trained on its task: `y = Wx + s_t B_t A_t x`, t the row's task.

    In a bank of experts of several tasks that is the one that has the row's task among its own.
    The reference that scores are normalised by, not a competitor: it is told the task. Refuses tasks
    without an expert. `oracle:wrong` is the floor under all routing, one wrong expert: the next one in
    the pool's order that was trained on another task. Cost: one LoRA, gathered per row.
    """

    wrong: bool = option(False, "use the next task's expert instead of one's own: a floor")

    name = "oracle"
    family = "reference"
    needs = frozenset({"task_id"})
    paper = f"{RETHINKING}, section 4.2"

    def __post_init__(self) -> None:
        if self.wrong:
            object.__setattr__(self, "family", "floor")

    @property
    def laws_broken(self) -> dict[Law, str]:
        if not self.wrong:
            return {}
        return {
            "one expert is itself": "there is no wrong one",
            "order of the experts": "the next one in their order is used",
        }

    def check(self, pool: ExpertPool) -> None:
        super().check(pool)
        if self.wrong and len({expert.tasks for expert in pool.experts}) < 2:
            raise LorafuseError(
                f"method 'oracle': wrong=true needs experts of two tasks, the pool has"
                f" {', '.join(pool.names)}. Add an expert."
            )

    def select(self, runtime: Runtime, prompts: Prompts) -> Tensor:
        index = [expert_of(runtime.pool, task, self.wrong) for task in prompts.tasks]
        column = torch.tensor(index, device=prompts.input_ids.device)[:, None]
        return column.expand(-1, runtime.base.blocks).clone()


def expert_of(pool: ExpertPool, task: str, wrong: bool) -> int:
    """Position of the task's own expert, or of the next one, cyclically, of another task."""
    serving = [i for i, expert in enumerate(pool.experts) if task in expert.tasks]
    if not wrong or not serving:
        return pool.index_of_task(task)
    after = [(serving[0] + step) % len(pool) for step in range(1, len(pool))]
    others = [i for i in after if i not in serving]
    if not others:
        raise LorafuseError(f"method 'oracle': every expert was trained on '{task}', none is a wrong one.")
    return others[0]
