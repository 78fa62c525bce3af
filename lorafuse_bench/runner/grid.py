"""Runs a plan: unfinished cells are evaluated, finished ones kept, and several runs share one folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from lorafuse_bench.device import Compute, device_of
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import check_writable
from lorafuse_bench.leaderboards.results.schema import Result
from lorafuse_bench.locks import sweep
from lorafuse_bench.progress import Relay, Watcher, relayed
from lorafuse_bench.runner.evaluation import Evaluation
from lorafuse_bench.runner.kept import locked, remove_blocks, why_run
from lorafuse_bench.runner.plan import Cell, Plan, cells_of
from lorafuse_bench.runner.provenance import draft_of
from lorafuse_bench.tasks import consent
from lorafuse_bench.tasks.data import resolve_source
from lorafuse_bench.tasks.suites import suite as suite_of
from lorafuse_bench.workers import single_threaded
from lorafuse_bench.zoo.manifest import Zoo

POLL_SECONDS = 5.0
_SPAWN = get_context("spawn")
_start = _SPAWN.Process


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
        return why_run(cell.path, self.drafts[cell.path])

    def evaluate(self, cells: Sequence[Cell], watcher: Watcher) -> None:
        """Run the cells on one loaded base, those that no other run is at."""
        if cells:
            _share(Evaluation(self.plan, self.zoo, self.source, cells), cells, self.drafts, watcher)


def run(plan: Plan, watcher: Watcher | None = None, workers: int = 1) -> list[Path]:
    """Run the plan's unfinished cells and return the result files of all.

    A finished cell is kept, one whose files are damaged is done again, and one whose inputs differ from the
    plan's is refused. What can be refused is, before anything runs. A cell that another run is evaluating
    into the same folder is left to it. With several `workers`, so many processes share the cells, each with a base
    of its own. Raises LorafuseError for bad input.
    """
    watcher = watcher or Watcher()
    grid = Grid.of(plan, watcher.say)
    for folder in sorted({cell.path.parent for cell in grid.cells}):
        check_writable(folder)
        sweep(folder)
    pending = []
    for cell in grid.cells:
        reason = grid.why_run(cell)
        if reason:
            pending.append(cell)
        else:
            remove_blocks(cell.path)
        if not reason or cell.path.exists():
            watcher.say(f"{cell}: {reason or f'kept {cell.path}'}")
    if min(workers, len(pending)) > 1:
        _in_processes(grid, min(workers, len(pending)), watcher)
    else:
        grid.evaluate(pending, watcher)
    return [cell.path for cell in grid.cells]


def _in_processes(grid: Grid, count: int, watcher: Watcher) -> None:
    """The grid's cells by processes that share them as several runs do; what one leaves when it dies, others do."""
    with (
        single_threaded(device_of(grid.plan.device).type == "cpu"),
        _SPAWN.Manager() as manager,
        relayed(watcher, manager.Queue()) as relay,
    ):
        workers = [_start(target=_work, args=(grid.plan, relay, f"worker {i + 1}")) for i in range(count)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    left = [cell for cell in grid.cells if grid.why_run(cell)]
    if left:
        codes = ", ".join(str(worker.exitcode) for worker in workers)
        raise LorafuseError(
            f"{len(left)} of {len(grid.cells)} cells are not done: the workers ended with exit codes {codes}."
            " What they said stands above; run the same command again to go on."
        )


def _work(plan: Plan, relay: Relay, name: str) -> None:
    """What one of several processes does."""
    relay.say = partial(_named, relay.say, name)
    try:
        grid = Grid.of(plan, _unsaid)
        grid.evaluate([cell for cell in grid.cells if grid.why_run(cell)], relay)
    except LorafuseError as error:
        relay.say(str(error))
        sys.exit(2)


def _named(say: Callable[[str], None], name: str, text: str) -> None:
    say(f"{name}: {text}")


def _unsaid(text: str) -> None:
    """The process that started this one has said it."""


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
                        evaluation.run(cell, drafts[cell.path], watcher)
                else:
                    watcher.skip(f"{cell}: done by another run")
        if elsewhere and len(elsewhere) == len(waiting):
            time.sleep(POLL_SECONDS)
        elif elsewhere:
            watcher.say(f"waiting for {len(elsewhere)} cells that another run is evaluating")
        waiting = elsewhere
