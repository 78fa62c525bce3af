"""Runs a plan: unfinished cells are evaluated, finished ones kept, and several runs share one folder."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from lorafuse_bench.device import Compute
from lorafuse_bench.files import check_writable
from lorafuse_bench.leaderboards.schema import Result
from lorafuse_bench.locks import sweep
from lorafuse_bench.progress import Watcher
from lorafuse_bench.runner.evaluation import Evaluation
from lorafuse_bench.runner.kept import locked, why_run
from lorafuse_bench.runner.plan import Cell, Plan, cells_of
from lorafuse_bench.runner.provenance import draft_of
from lorafuse_bench.tasks import consent
from lorafuse_bench.tasks.data import resolve_source
from lorafuse_bench.tasks.suites import suite as suite_of
from lorafuse_bench.zoo.manifest import Zoo

POLL_SECONDS = 5.0


def run(plan: Plan, watcher: Watcher | None = None) -> list[Path]:
    """Run the plan's unfinished cells and return the result files of all.

    A finished cell is kept, one whose files are damaged is done again, and one whose inputs differ from the
    plan's is refused. What can be refused is, before anything runs. A cell that another run is evaluating
    into the same folder is left to it. Raises LorafuseError for bad input.
    """
    watcher = watcher or Watcher()
    consent.ask(map(suite_of, plan.suites), plan.run_code)
    zoo = Zoo.open(plan.zoo)
    source = resolve_source(plan.data, str(plan.zoo))
    cells = cells_of(plan, zoo, watcher.say)
    dtype = Compute.of(plan.device, plan.dtype, zoo.find_base()).record()["dtype"]
    drafts = {cell.path: draft_of(plan, zoo, cell, source, dtype) for cell in cells}
    for folder in sorted({cell.path.parent for cell in cells}):
        check_writable(folder)
        sweep(folder)
    pending = []
    for cell in cells:
        reason = why_run(cell.path, drafts[cell.path])
        if reason:
            pending.append(cell)
        if not reason or cell.path.exists():
            watcher.say(f"{cell}: {reason or f'kept {cell.path}'}")
    if pending:
        _share(Evaluation(plan, zoo, source, pending), pending, drafts, watcher)
    return [cell.path for cell in cells]


def _share(
    evaluation: Evaluation, cells: Sequence[Cell], drafts: Mapping[Path, Result], watcher: Watcher
) -> None:
    """Evaluate the cells that no other run is at; wait for those, and take over what such a run leaves."""
    watcher.expect(len(cells))
    waiting = list(cells)
    while waiting:
        elsewhere = []
        for cell in waiting:
            with locked(cell.path) as mine:
                if not mine:
                    elsewhere.append(cell)
                elif why_run(cell.path, drafts[cell.path]):
                    with watcher.step(str(cell)):
                        evaluation.run(cell, watcher)
                else:
                    watcher.skip(f"{cell}: done by another run")
        if elsewhere and len(elsewhere) == len(waiting):
            time.sleep(POLL_SECONDS)
        elif elsewhere:
            watcher.say(f"waiting for {len(elsewhere)} cells that another run is evaluating")
        waiting = elsewhere
