"""Memory does not grow from cell to cell."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from toy_grid import plan

from lorafuse_bench import runner
from lorafuse_bench.progress import Watcher
from lorafuse_bench.runner.evaluation import Evaluation
from lorafuse_bench.zoo.manifest import Zoo


def resident_megabytes() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells how much memory there is in use")
@pytest.mark.parametrize("cells", [20, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_memory_is_flat_over_cells(zoo: Zoo, tmp_path: Path, cells: int) -> None:
    methods = ",".join(f"ties:density={0.5 + i / 1000}" for i in range(cells))
    grid = runner.Grid.of(plan(zoo, tmp_path, methods, suites=["sst2"]), print)
    evaluation, used = Evaluation(grid.plan, grid.zoo, grid.source, grid.cells), []
    for cell in grid.cells:
        evaluation.run(cell, grid.drafts[cell.path], Watcher())
        used.append(resident_megabytes())
    half = cells // 2
    assert max(used[half:]) - max(used[:half]) < 0.1 * cells, "a cell leaves 200 kB behind, or more"
