"""Trust by doing again: random items of random cells are evaluated anew and held against what the results say.

A forged result can have hashes that fit; its scores cannot be those of the model, unless they are. What else a result
says and an evaluation shows is compared too: the size of each split, what was asked, the parameters kept.
"""

from __future__ import annotations

import math
import random
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorafuse_bench.device import AUTO, device_of
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion import registry
from lorafuse_bench.leaderboards.publishing.verify import RESULTS
from lorafuse_bench.leaderboards.results import cell_files
from lorafuse_bench.leaderboards.results.assembly import asked_of, items_of
from lorafuse_bench.leaderboards.results.difference import differences
from lorafuse_bench.leaderboards.results.made_of import ArtefactId
from lorafuse_bench.leaderboards.results.schema import Items, Result, SuiteRecord, TaskItems
from lorafuse_bench.limits import MAX_SEED
from lorafuse_bench.progress import Watcher
from lorafuse_bench.runner.evaluation import Evaluation
from lorafuse_bench.runner.grid import Grid
from lorafuse_bench.runner.kept import check_same
from lorafuse_bench.runner.plan import Plan
from lorafuse_bench.tasks.facts import Suite, SuiteTask
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
class Misstated:
    """A field of a cell that this evaluation shows otherwise."""

    path: Path
    field: str
    told: str
    again: str


@dataclass(frozen=True)
class Findings:
    """What an audit found; the same `seed` draws the same items again."""

    seed: int
    tasks: tuple[Audited, ...]
    fields: tuple[Misstated, ...]
    unmade: Mapping[Path, str]
    """Cells drawn that cannot be made here, and why."""


@dataclass(frozen=True)
class Audit:
    """What to draw, and where the models and the rows are. `items` are of each task of each of `cells` cells.

    Without a `seed` nobody knows beforehand what will be drawn.
    """

    folder: Path
    zoo: str | Path = EMBEDDED
    data: str | None = None
    cells: int = 3
    items: int = 8
    seed: int | None = None
    device: str = AUTO

    def run(self, watcher: Watcher) -> Findings:
        """Draw, evaluate and compare. LorafuseError where no cell drawn can be made from what is given here."""
        Zoo.open(self.zoo).check_whole()
        device_of(self.device)
        seed = secrets.randbelow(MAX_SEED) if self.seed is None else self.seed
        chance = random.Random(seed)
        paths = sorted(self.folder.glob("*/*/*.json")) or sorted(self.folder.glob(f"{RESULTS}/*/*/*.json"))
        if not paths:
            raise LorafuseError(
                f"no results in {self.folder}. Name a folder of `lorafuse run`, or a published board's."
            )
        drawn = sorted(chance.sample(paths, min(self.cells, len(paths))))
        watcher.expect(len(drawn))
        found: list[Audited | Misstated] = []
        unmade: dict[Path, str] = {}
        for path in drawn:
            result, items = cell_files.read_cell(path)
            with watcher.step(f"{result.suite} {result.method.label}"):
                try:
                    found += self._cell(path, result, items, chance, watcher)
                except LorafuseError as error:
                    unmade[path] = str(error)
        if len(unmade) == len(drawn):
            raise LorafuseError(next(iter(unmade.values())))
        return Findings(
            seed,
            tuple(each for each in found if isinstance(each, Audited)),
            tuple(each for each in found if isinstance(each, Misstated)),
            unmade,
        )

    def _cell(
        self, path: Path, result: Result, told: Items, chance: random.Random, watcher: Watcher
    ) -> Iterator[Audited | Misstated]:
        grid = Grid.of(self._plan(result), watcher.say)
        (cell,) = grid.cells
        check_same(path, result, grid.drafts[cell.path])
        positions = {
            key: sorted(chance.sample(range(len(held.doc_hashes)), min(self.items, len(held.doc_hashes))))
            for key, held in told.root.items()
        }
        evaluation = Evaluation(grid.plan, grid.zoo, grid.source, grid.cells)
        suite = evaluation.suites[cell.suite]
        tasks = {key: task for key, task in suite.tasks.items() if key in positions}
        leaves = {
            leaf: [p for p in positions[key] if p < len(evaluation.tasks[cell.suite][leaf].eval_docs)]
            for key, task in tasks.items()
            for leaf in task.leaves
        }
        output, _ = evaluation.output(cell, watcher, leaves)
        for key, task in tasks.items():
            again = items_of(output["samples"], task)
            yield Audited(path, key, len(positions[key]), _differing(told.root[key], again, positions[key]))
            for name in sorted(told.root[key].metrics.keys() - again.metrics.keys()):
                yield Misstated(path, f"tasks.{key}.metrics.{name}", "a metric", "no such metric")
        for found in differences(_stated(result), _shown(suite, tasks, output)):
            if found.mine is not None:  # results of older formats do not say
                yield Misstated(path, found.where, *found.texts())

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
            dtype=result.base.dtype,
            device=self.device,
        )


def _whole(batch_size: object) -> int:
    return batch_size if isinstance(batch_size, int) else 32


_OF_TASKS = ("version", "few_shot", "n_original", "requests", "filter", "representative")


def _stated(result: Result) -> dict[str, Any]:
    """What a result says beside its scores, as far as any evaluation of the same cell shows it."""
    said = result.model_dump(mode="json")
    return {
        "definition": said["definition"],
        "artefacts": said["artefacts"],
        "cost": {"extra_parameters": said["cost"]["extra_parameters"]},
        "tasks": {
            key: _without_prompts({field: task[field] for field in _OF_TASKS})
            for key, task in said["tasks"].items()
        },
    }


def _shown(suite: Suite, tasks: Mapping[str, SuiteTask], output: Mapping[str, Any]) -> dict[str, Any]:
    """The same of an evaluation of some items."""
    info = output["config"]["lorafuse"]
    return {
        "definition": SuiteRecord.of(suite).model_dump(mode="json"),
        "artefacts": [ArtefactId.model_validate(each).model_dump(mode="json") for each in info["artefacts"]],
        "cost": {"extra_parameters": info["cost"]["extra_parameters"]},
        "tasks": {key: _without_prompts(asked_of(task, output)) for key, task in tasks.items()},
    }


def _without_prompts(task: dict[str, Any]) -> dict[str, Any]:
    """A task's entry without the hash over all its prompts, of which an audit makes some."""
    requests = task["requests"] or {}
    kept = {
        leaf: {k: v for k, v in asked.items() if k != "prompts_sha256"} for leaf, asked in requests.items()
    }
    return task | {"requests": kept or None}


def _differing(told: TaskItems, again: TaskItems, positions: Sequence[int]) -> tuple[int, ...]:
    """The positions that have no document in the split, another, or another score in some metric."""
    shared = told.metrics.keys() & again.metrics.keys()
    return tuple(
        position
        for i, position in enumerate(positions)
        if i >= len(again.doc_hashes)
        or told.doc_hashes[position] != again.doc_hashes[i]
        or any(not _close(told.metrics[name][position], again.metrics[name][i]) for name in shared)
    )


def _close(told: float | Sequence[float], again: float | Sequence[float]) -> bool:
    pairs = zip(
        *([value] if isinstance(value, int | float) else value for value in (told, again)), strict=True
    )
    return all(math.isclose(a, b, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE) for a, b in pairs)
