"""A plan's cells, and what each must be made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorafuse_bench.device import Compute
from lorafuse_bench.leaderboards.results.schema import Result
from lorafuse_bench.runner.kept import why_run
from lorafuse_bench.runner.plan import Cell, Plan, cells_of
from lorafuse_bench.runner.provenance import draft_of
from lorafuse_bench.tasks import consent
from lorafuse_bench.tasks.data import resolve_source
from lorafuse_bench.tasks.suites import suite as suite_of
from lorafuse_bench.zoo.manifest import Zoo


@dataclass(frozen=True)
class Grid:
    """A plan's cells, and what each must be made of."""

    plan: Plan
    zoo: Zoo
    source: str
    cells: Sequence[Cell]
    drafts: Mapping[Path, Result]

    @classmethod
    def of(cls, plan: Plan, say: Callable[[str], None]) -> Grid:
        """LorafuseError for a plan that cannot run; nothing is written."""
        consent.ask(map(suite_of, plan.suites), plan.run_code)
        zoo = Zoo.open(plan.zoo)
        source = resolve_source(plan.data, str(plan.zoo))
        cells = cells_of(plan, zoo, say)
        dtype = Compute.of(plan.device, plan.dtype, zoo.find_base()).record()["dtype"]
        return cls(
            plan, zoo, source, cells, {cell.path: draft_of(plan, zoo, cell, source, dtype) for cell in cells}
        )

    def why_run(self, cell: Cell) -> str | None:
        """Why a cell has to be run, None where it is kept; LorafuseError when it is of other inputs."""
        return why_run(cell.path, self.drafts[cell.path], suite_of(cell.suite))
