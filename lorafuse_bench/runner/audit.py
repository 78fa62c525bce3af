"""Trust by doing again: random items of random cells are evaluated anew and held against what the results say.

A forged result can have hashes that fit; its scores cannot be those of the model, unless they are.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorafuse_bench.device import AUTO, device_of
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion import registry
from lorafuse_bench.leaderboards.results import cell_files
from lorafuse_bench.leaderboards.results.assembly import items_of
from lorafuse_bench.leaderboards.results.schema import Items, Result, TaskItems
from lorafuse_bench.progress import Watcher
from lorafuse_bench.runner.evaluation import Evaluation
from lorafuse_bench.runner.grid import Grid
from lorafuse_bench.runner.kept import check_same
from lorafuse_bench.runner.plan import Plan
from lorafuse_bench.zoo.manifest import EMBEDDED, Zoo

_RELATIVE, _ABSOLUTE = 1e-3, 1e-5
"""Losses of other batches of the same rows differ by rounding; a score that counts does so rarely, by a whole item."""


@dataclass(frozen=True)
class Audited:
    """A task of a cell: how many items were evaluated anew, and the positions of those that came out otherwise."""

    path: Path
    task: str
    items: int
    differing: tuple[int, ...]


@dataclass(frozen=True)
class Audit:
    """What to draw, and where the models and the rows are. `items` are of each task of each of `cells` cells."""

    folder: Path
    zoo: str | Path = EMBEDDED
    data: str | None = None
    cells: int = 3
    items: int = 8
    seed: int = 0
    device: str = AUTO

    def run(self, watcher: Watcher) -> list[Audited]:
        """Draw, evaluate and compare. LorafuseError where a cell was made from other inputs than those given here."""
        Zoo.open(self.zoo).check_whole()
        device_of(self.device)
        chance = random.Random(self.seed)
        paths = sorted(self.folder.glob("*/*/*.json"))
        if not paths:
            raise LorafuseError(f"no results in {self.folder}. Name a folder of `lorafuse run`.")
        drawn = sorted(chance.sample(paths, min(self.cells, len(paths))))
        watcher.expect(len(drawn))
        found: list[Audited] = []
        for path in drawn:
            result, items = cell_files.read_cell(path)
            with watcher.step(f"{result.suite} {result.method.label}"):
                found += self._cell(path, result, items, chance, watcher)
        return found

    def _cell(
        self, path: Path, result: Result, told: Items, chance: random.Random, watcher: Watcher
    ) -> Iterator[Audited]:
        grid = Grid.of(self._plan(result), watcher.say)
        (cell,) = grid.cells
        check_same(path, result, grid.drafts[cell.path])
        positions = {
            key: sorted(chance.sample(range(len(held.doc_hashes)), min(self.items, len(held.doc_hashes))))
            for key, held in told.root.items()
        }
        evaluation = Evaluation(grid.plan, grid.zoo, grid.source, grid.cells)
        suite = evaluation.suites[cell.suite]
        leaves = {leaf: positions[key] for key, task in suite.tasks.items() for leaf in task.leaves}
        output, _ = evaluation.output(cell, watcher, leaves)
        for key, task in suite.tasks.items():
            again = items_of(output["samples"], task)
            yield Audited(path, key, len(positions[key]), _differing(told.root[key], again, positions[key]))

    def _plan(self, result: Result) -> Plan:
        """What made the result, with the models and rows that are given here."""
        if isinstance(result.limit, float):
            raise LorafuseError(
                "a limit that is a share of the documents cannot be audited. Name other cells."
            )
        return Plan(
            [registry.create(result.method.name, result.method.options)],
            [result.suite],
            self.folder,
            self.zoo,
            [expert.name for expert in result.experts] or None,
            self.data,
            result.limit,
            result.max_length,
            result.num_fewshot,
            result.told.system_instruction,
            result.told.chat_template is not None,
            result.told.generation,
            _whole(result.batch_size),
            device=self.device,
        )


def _whole(batch_size: object) -> int:
    return batch_size if isinstance(batch_size, int) else 32


def _differing(told: TaskItems, again: TaskItems, positions: Sequence[int]) -> tuple[int, ...]:
    """The positions whose document or whose score in some metric is another."""
    return tuple(
        position
        for i, position in enumerate(positions)
        if told.doc_hashes[position] != again.doc_hashes[i]
        or any(
            not _close(values[position], again.metrics[metric][i]) for metric, values in told.metrics.items()
        )
    )


def _close(told: float | Sequence[float], again: float | Sequence[float]) -> bool:
    pairs = zip(
        *([value] if isinstance(value, int | float) else value for value in (told, again)), strict=True
    )
    return all(math.isclose(a, b, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE) for a, b in pairs)
