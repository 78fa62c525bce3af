"""One loaded base, and the cells that it is given one at a time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.progress import Watcher, followed
from lorafuse_bench.runner.evaluation import Evaluation
from lorafuse_bench.runner.grid import Grid
from lorafuse_bench.runner.kept import locked
from lorafuse_bench.runner.plan import Plan
from lorafuse_bench.tasks import catalogue, consent
from lorafuse_bench.tasks.data import HUB, MINI


class Outcome(StrEnum):
    """What became of a cell that a worker was given."""

    DONE = "done"
    KEPT = "done by another run"
    ELSEWHERE = "another run is evaluating it"


class Worker:
    """Evaluates cells of a grid; the base is loaded, and all cells checked against it, with the first of them."""

    def __init__(self, grid: Grid, watcher: Watcher) -> None:
        self.grid, self.watcher = grid, watcher
        self.cells = {str(cell): cell for cell in grid.cells}

    @cached_property
    def _evaluation(self) -> Evaluation:
        pending = [cell for cell in self.grid.cells if self.grid.why_run(cell)]
        return Evaluation(self.grid.plan, self.grid.zoo, self.grid.source, pending)

    def attend(self, name: str) -> Outcome:
        """Evaluate the cell of this name, unless it is done or another run is at it. LorafuseError for bad input."""
        if name not in self.cells:
            raise LorafuseError(
                f"{name}: a worker finds no such cell: its zoo or packages are others than the command's. Run it again."
            )
        cell = self.cells[name]
        with locked(cell.path) as mine:
            if not mine:
                return Outcome.ELSEWHERE
            if not self.grid.why_run(cell):
                return Outcome.KEPT
            evaluation = self._evaluation
            self.watcher.start(name)
            evaluation.run(cell, self.grid.drafts[cell.path], self.watcher)
            return Outcome.DONE


_PLACES = {catalogue.VARIABLE, "LORAFUSE_CACHE"}
"""Variables that list folders."""


@dataclass(frozen=True)
class Order:
    """All that a worker in another process or on another machine is told: names and places, never weights."""

    plan: Plan
    environment: Mapping[str, str]
    """Variables that say where things are and what the user allows."""

    @classmethod
    def of(cls, grid: Grid) -> Order:
        """Places are absolute: a worker starts in another folder. `mini` and `hub` are none, whatever lies beside."""
        plan, zoo = grid.plan, Path(grid.plan.zoo)
        placed = replace(
            plan,
            out=plan.out.absolute(),
            zoo=zoo.absolute() if zoo == grid.zoo.root else plan.zoo,
            data=grid.source if grid.source in (HUB, MINI) else str(Path(grid.source).absolute()),
        )
        told = (name for name in os.environ if name.startswith("LORAFUSE_") or name == consent.VARIABLE)
        named = {name: os.environ[name] for name in told}
        for name in _PLACES & named.keys():
            parts = named[name].split(os.pathsep)
            named[name] = os.pathsep.join(str(Path(part).absolute()) for part in parts if part)
        return cls(placed, named)

    def worker(self, watcher: Watcher) -> Worker:
        """What the order is for."""
        os.environ.update(self.environment)
        return Worker(Grid.of(self.plan, lambda text: None), watcher)


Answer = Outcome | LorafuseError
"""What comes back from another process: bad input as a value too."""


class Remote:
    """The worker at the other end of an engine, made with its first cell."""

    def __init__(self, order: Order, watcher: Watcher | None = None) -> None:
        self._order, self._watcher = order, watcher or Watcher()
        self._worker: Worker | None = None

    def attend(self, name: str) -> Answer:
        """The outcome of a cell, or why it was refused."""
        try:
            with followed(self._watcher):
                self._worker = self._worker or self._order.worker(self._watcher)
                return self._worker.attend(name)
        except LorafuseError as error:
            return LorafuseError(*error.args)
