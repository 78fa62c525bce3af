"""The oracle: each task's own expert; and its floor, each task a wrong one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lorafuse_bench.errors import LorafuseError, unknown
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion.base import Law, Prompts, RowRouting, Runtime, option
from lorafuse_bench.fusion.papers import RETHINKING
from lorafuse_bench.fusion.registry import register


@register
@dataclass(frozen=True)
class Oracle(RowRouting):
    """Each row uses the expert trained on its task: `y = Wx + s_t B_t A_t x`, t the row's task.

    In a bank of experts of several tasks that is the one that has the row's task among its own; where two have it,
    the one that `expert` names. The reference that scores are normalised by, not a competitor: it is told the task.
    Refuses tasks without an expert, and with several of which none is named. `oracle:wrong` is the floor under all
    routing, one wrong expert: the next one in the pool's order that was trained on another task. Cost: one LoRA,
    gathered per row.
    """

    wrong: bool = option(False, "use the next task's expert instead of one's own: a floor")
    expert: str | None = option(
        None, "which expert serves its tasks where another serves them too; several separated by /"
    )

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
        for name in self._named:
            if name not in pool.names:
                raise unknown("expert", name, pool.names)
        if self.wrong and len({expert.tasks for expert in pool.experts}) < 2:
            raise LorafuseError(
                f"method 'oracle': wrong=true needs experts of two tasks, the pool has"
                f" {', '.join(pool.names)}. Add an expert."
            )

    def check_tasks(self, pool: ExpertPool, tasks: Sequence[str]) -> None:
        for task in tasks:
            self.expert_of(pool, task)

    def select(self, runtime: Runtime, prompts: Prompts) -> Tensor:
        index = [self.expert_of(runtime.pool, task) for task in prompts.tasks]
        column = torch.tensor(index, device=prompts.input_ids.device)[:, None]
        return column.expand(-1, runtime.base.blocks).clone()

    @property
    def _named(self) -> Collection[str]:
        return self.expert.split("/") if self.expert else ()

    def expert_of(self, pool: ExpertPool, task: str) -> int:
        """Position of the task's own expert, or of the next one, cyclically, of another task."""
        serving = [i for i, expert in enumerate(pool.experts) if task in expert.tasks]
        if not self.wrong or not serving:
            return pool.index_of_task(task, self._named)
        after = [(serving[0] + step) % len(pool) for step in range(1, len(pool))]
        others = [i for i in after if i not in serving]
        if not others:
            raise LorafuseError(
                f"method 'oracle': every expert was trained on '{task}', none is a wrong one."
            )
        return others[0]
