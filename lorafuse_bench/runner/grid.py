"""Runs a plan: unfinished cells are evaluated, finished ones kept."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from lorafuse_bench.fused import FusedModel
from lorafuse_bench.model_wrappers.hf import LorafuseLM
from lorafuse_bench.runner.evaluation import run_cell
from lorafuse_bench.runner.plan import Plan, cells_of
from lorafuse_bench.runner.provenance import check_same, inputs_of
from lorafuse_bench.tasks import consent
from lorafuse_bench.tasks.data import resolve_source
from lorafuse_bench.tasks.suites import leaf_tasks
from lorafuse_bench.zoo.manifest import Zoo

_LOGGER = logging.getLogger(__name__)


def run(plan: Plan, report: Callable[[str], None] = _LOGGER.info) -> list[Path]:
    """Run the plan's unfinished cells and return the result files of all.

    A finished cell is kept and not run again; one whose inputs differ from the plan's is refused
    before anything runs. Raises LorafuseError for bad input.
    """
    consent.ask((leaf for suite in plan.suites for leaf in leaf_tasks(suite)), plan.run_code)
    zoo = Zoo.open(plan.zoo)
    source = resolve_source(plan.data, str(plan.zoo))
    cells = cells_of(plan, zoo, report)
    pending = []
    for cell in cells:
        if cell.path.is_file():
            check_same(cell.path, inputs_of(plan, zoo, cell, source))
            report(f"{cell}: kept {cell.path}")
        else:
            pending.append(cell)
    if pending:
        lm = _model(plan)
    for position, cell in enumerate(pending, start=1):
        report(f"[{position}/{len(pending)}] {cell}")
        lm.fused = FusedModel.of(lm.fused, cell.pool)
        path = run_cell(plan, zoo, lm, cell, source)
        report(f"[{position}/{len(pending)}] {cell}: {path}")
    return [cell.path for cell in cells]


def _model(plan: Plan) -> LorafuseLM:
    return LorafuseLM(
        "base",
        zoo=plan.zoo,
        data=plan.data,
        batch_size=plan.batch_size,
        device=plan.device,
        dtype=plan.dtype,
        max_length=plan.max_length,
    )
