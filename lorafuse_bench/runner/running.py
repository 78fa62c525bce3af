"""Runs a plan: unfinished cells are evaluated, finished ones kept, and several runs share one folder."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from lorafuse_bench.errors import LorafuseError, unknown
from lorafuse_bench.files import check_writable
from lorafuse_bench.locks import sweep
from lorafuse_bench.progress import Watcher
from lorafuse_bench.runner.engines import local, ray
from lorafuse_bench.runner.grid import Grid
from lorafuse_bench.runner.kept import edited_since, remove_blocks
from lorafuse_bench.runner.plan import Cell, Plan
from lorafuse_bench.runner.sharing import Engine, Sharing
from lorafuse_bench.tasks.suites import suite as suite_of

ENGINES = ("local", "ray")


def run(
    plan: Plan,
    watcher: Watcher | None = None,
    workers: int = 1,
    engine: str = "local",
    ray_address: str | None = None,
) -> list[Path]:
    """Run the plan's unfinished cells and return the result files of all.

    A finished cell is kept, one whose files are damaged is done again, and one whose inputs differ from the
    plan's is refused. What can be refused is, before anything runs. A cell that another run is evaluating
    into the same folder is left to it. So many `workers` share the cells, each with a base of its own: in this process
    where it is one, in processes of this machine, or on a Ray cluster. Raises LorafuseError for bad input.
    """
    watcher = watcher or Watcher()
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    if ray_address and engine != "ray":
        raise LorafuseError("--ray-address is of the engine ray. Add --engine ray, or leave it out.")
    if engine == "ray":
        ray.installed()
    grid = Grid.of(plan, watcher.say)
    pending = _pending(grid, watcher)
    if pending:
        count = min(workers, len(pending))
        started: AbstractContextManager[Engine] = (
            ray.engine(grid, count, ray_address) if engine == "ray" else local.engine(grid, workers, watcher)
        )
        with started as hands:
            Sharing(pending, hands, count, watcher).run()
    return [cell.path for cell in grid.cells]


def _pending(grid: Grid, watcher: Watcher) -> list[Cell]:
    """The cells that have to be run; folders are ready for them, and nothing is left of those that need not."""
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
            watcher.say(f"{cell}: {reason or _kept(cell, grid.source)}")
    return pending


def _kept(cell: Cell, source: str) -> str:
    edited = ", ".join(map(str, edited_since(cell.path, suite_of(cell.suite), source)))
    note = f"; {edited} was edited after that: remove the result to run the cell again" if edited else ""
    return f"kept {cell.path}{note}"
