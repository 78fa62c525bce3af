"""What to run, and the cells that it means."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lorafuse_bench import artefacts
from lorafuse_bench.device import AUTO, Compute
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fused import adapter_entry
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.base import FusionMethod
from lorafuse_bench.leaderboards.results import layout
from lorafuse_bench.tasks.suites import suite as suite_of
from lorafuse_bench.truncation import LEAST
from lorafuse_bench.zoo.manifest import EMBEDDED, Zoo
from lorafuse_bench.zoo.pools import experts_for, pool_name, untrained

_MOST = 2**31 - 1


@dataclass(frozen=True)
class Plan:
    """What to run: every method on every suite, with the experts of one zoo.

    `methods=None` takes all that the zoo can do, and leaves out with a word those that do not fit its experts.
    `experts=None` takes, for each suite, the zoo's experts of that suite's tasks: as in the papers, five
    experts are fused for five tasks. For a suite that no expert was trained for it takes all.
    A bank such as `@mbc` is taken in the same way.
    """

    methods: Sequence[FusionMethod] | None
    suites: Sequence[str]
    out: Path
    zoo: str | Path = EMBEDDED
    experts: Sequence[str] | None = None
    data: str | None = None
    limit: int | None = None
    max_length: int | None = None
    num_fewshot: int | None = None
    """Examples in every prompt; None for each task's own number."""
    system_instruction: str | None = None
    chat_template: bool = False
    """Prompts go through the tokenizer's chat template."""
    generation: Mapping[str, Any] = field(default_factory=dict)
    """Settings of generation that replace the tasks' own."""
    batch_size: int = 32
    dtype: str = AUTO
    device: str = AUTO
    run_code: bool = False
    """Consent to run the code that models write, where a suite has such tasks."""
    shard: tuple[int, int] = (1, 1)
    """(i, n): of the cells in their order, the i-th and every n-th after it."""

    def __post_init__(self) -> None:
        """LorafuseError for a number that means nothing."""
        for name, least in (("limit", 1), ("max_length", LEAST), ("num_fewshot", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or not least <= value <= _MOST):
                raise LorafuseError(
                    f"{name}={value!r}: a whole number of at least {least} is due, and of {_MOST} at most."
                )


@dataclass(frozen=True)
class Cell:
    """One method on one suite with these experts; its result file is `path`."""

    method: FusionMethod
    suite: str
    pool: ExpertPool
    path: Path

    def __str__(self) -> str:
        return f"{self.suite} {self.method.label()}"


def cells_of(plan: Plan, zoo: Zoo, report: Callable[[str], None]) -> list[Cell]:
    """The plan's cells, suite by suite; `report` is told which methods are left out.

    LorafuseError for an unknown suite or expert, and for every named method that does not fit its experts.
    """
    methods = all_methods(zoo) if plan.methods is None else plan.methods
    suites = [suite_of(name) for name in plan.suites]
    names = {suite.name: experts_for(zoo, suite.tasks, plan.experts) for suite in suites}
    if any(method.fuses_experts for method in methods):
        for suite in suites:
            if word := untrained(zoo, suite.tasks, plan.experts):
                report(f"{suite.name}: {word}")
    pools = _pools(zoo, names, Compute.of(plan.device, plan.dtype, zoo.find_base()).dtype)
    cells = [
        _cell(plan, zoo, suite.name, pools[suite.name], method) for suite in suites for method in methods
    ]
    tasks = {suite.name: tuple(suite.tasks) for suite in suites}
    misfits = {cell.path: error for cell in cells if (error := _misfit(zoo, cell, tasks[cell.suite]))}
    if plan.methods is not None and misfits:
        raise LorafuseError(*dict.fromkeys(misfits.values()))
    for cell in cells:
        if cell.path in misfits:
            report(f"{cell}: left out, {misfits[cell.path]}")
    first, step = plan.shard
    fitting = {
        cell.path: cell for cell in cells if cell.path not in misfits
    }  # one that is named twice is run once
    return list(fitting.values())[first - 1 :: step]


def shard_of(text: str) -> tuple[int, int]:
    """`2/8` as (2, 8); LorafuseError unless 1 <= i <= n."""
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    first, step = map(int, found.groups()) if found else (0, 0)
    if 1 <= first <= step:
        return first, step
    raise LorafuseError(
        f"--shard: {text!r} is no I/N with 1 <= I <= N. Write 1/4 for the first of four shards."
    )


def _cell(plan: Plan, zoo: Zoo, suite: str, pool: ExpertPool, method: FusionMethod) -> Cell:
    name = pool_name(zoo, pool.names)
    path = layout.cell_path(plan.out, suite, name, zoo.manifest.seed, method.label())
    return Cell(method, suite, pool, path)


def all_methods(zoo: Zoo) -> list[FusionMethod]:
    """Every registered method with its default options that needs nothing learned, then what the zoo has learned."""
    ready: list[FusionMethod] = [
        registry.create(name)
        for name, cls in registry.methods().items()
        if not {"adapter", "fit"} & registry.create(name).needed
        and (zoo.manifest.experts or not cls.fuses_experts)
    ]
    fits = [
        registry.create(entry.method, entry.options)
        for entry in zoo.manifest.artefacts
        if entry.method in registry.methods()
    ]
    ready += {method.label(): method for method in fits if zoo.manifest.experts}.values()
    adapters: dict[str, FusionMethod] = {}
    for entry in zoo.manifest.adapters:
        method = registry.create(entry.method, entry.options)
        if method.label() in adapters:  # of another suite
            method = registry.create(entry.method, {**entry.options, "trained_on": entry.trained_on})
        adapters[method.label()] = method
    return ready + list(adapters.values())


def _misfit(zoo: Zoo, cell: Cell, tasks: Sequence[str]) -> str | None:
    """Why a method cannot run with its experts on the suite's tasks, None where it can."""
    try:
        cell.method.check(cell.pool)
        cell.method.check_tasks(cell.pool, tasks)
        if "adapter" in cell.method.needed:
            adapter_entry(zoo, cell.method)
        if "fit" in cell.method.needed:
            artefacts.entry_of(zoo, cell.method, cell.pool)
    except LorafuseError as error:
        return str(error)
    return None


def _pools(zoo: Zoo, names: Mapping[str, Sequence[str]], dtype: torch.dtype) -> dict[str, ExpertPool]:
    """Each suite's experts, held in `dtype`; no file is read twice."""
    wanted = list(dict.fromkeys(name for chosen in names.values() for name in chosen))
    whole = ExpertPool.from_zoo(zoo, wanted, dtype)
    by_name = {expert.name: expert for expert in whole.experts}
    pools = {whole.names: whole}
    for chosen in map(tuple, names.values()):
        if chosen not in pools:
            pools[chosen] = ExpertPool([by_name[name] for name in chosen], dtype)
    return {suite: pools[tuple(chosen)] for suite, chosen in names.items()}
