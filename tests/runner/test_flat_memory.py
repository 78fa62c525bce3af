"""Nothing of a cell stays in memory when the next one runs, in this process and in workers."""

from __future__ import annotations

import gc
import os
import sys
from collections import defaultdict
from multiprocessing import active_children
from pathlib import Path
from statistics import median

import pytest
import torch
from tiny import add_router, tiny_zoo
from toy_grid import plan

from lorafuse_bench import runner
from lorafuse_bench.progress import Watcher
from lorafuse_bench.runner.evaluation import Evaluation
from lorafuse_bench.zoo.manifest import Zoo

SUITES = ["mnli/sst2", "paws/sst2"]
SCALED = "arrow:temperature della:density knots:density ties:density tsv:scale"
MORE = "breadcrumbs:density core_space:scale dare:density iso_c:scale sce:scale"
UNSCALED = ",base,oracle,moa,ensemble"
MEGABYTES, OBJECTS = 0.1, 20
"""What a cell may leave behind."""


def methods(i: int, names: str = SCALED) -> str:
    """One of each, with an option that no other number gives."""
    return ",".join(f"{name}={0.5 + i / 100}" for name in names.split())


def resident_megabytes(process: int | str = "self") -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def held(model: torch.nn.Module) -> tuple[int, dict[str, int]]:
    """How many objects are reachable; and tensors, their bytes, and the model's modules and hooks."""
    gc.collect()
    objects = gc.get_objects()
    tensors = [each for each in objects if issubclass(type(each), torch.Tensor)]
    modules = list(model.modules())
    return len(objects), {
        "tensors": len(tensors),
        "bytes": sum(tensor.nbytes for tensor in tensors),
        "modules": len(modules),
        "hooks": sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in modules),
    }


def test_a_second_round_of_methods_leaves_what_the_first_left(handmade_data: Path, tmp_path: Path) -> None:
    """Tensors, modules and hooks exactly; of other objects fewer than a result has, or a task of lm-eval."""
    made = add_router(tiny_zoo(tmp_path / "zoo", experts=3))
    zoo = Zoo(made.root, made.manifest.model_copy(update={"data": str(handmade_data)}))
    zoo.save()
    plans = [plan(zoo, tmp_path / str(i), methods(i) + UNSCALED, suites=SUITES[:1]) for i in range(2)]
    grids = [runner.Grid.of(each, print) for each in plans]
    grid, left = grids[0], []
    evaluation = Evaluation(grid.plan, grid.zoo, grid.source, grid.cells)
    for grid in grids:
        for cell in grid.cells:
            evaluation.run(cell, grid.drafts[cell.path], Watcher())
        left.append(held(evaluation.lm.fused.model))
    (objects, first), (more, second) = left
    assert first == second
    assert more - objects < OBJECTS * len(grid.cells)


class Weigher(Watcher):
    """Notes what memory each worker takes whenever one of them has finished a cell."""

    def __init__(self) -> None:
        super().__init__(print)
        self.megabytes = defaultdict[int, list[float]](list)

    def finish(self, name: str, seconds: float, since: float | None = None) -> None:
        super().finish(name, seconds, since)
        for child in active_children():
            if child.name.startswith("SpawnProcess") and child.pid:
                self.megabytes[child.pid].append(resident_megabytes(child.pid))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells how much memory there is in use")
def test_four_workers_take_no_more_memory_after_200_cells(zoo: Zoo, tmp_path: Path) -> None:
    weigher = Weigher()
    named = ",".join(methods(i, f"{SCALED} {MORE}") for i in range(10))
    asked = plan(zoo, tmp_path, named, suites=SUITES)
    assert len(runner.run(asked, weigher, workers=4)) == 200
    assert len(weigher.megabytes) == 4
    for found in weigher.megabytes.values():
        early, late = median(found[40:60]), median(found[180:])
        print(f"a worker: {early:.1f} MB after its 10th to 15th cell, {late:.1f} after its 45th to 50th")
        assert late - early < MEGABYTES * 35
