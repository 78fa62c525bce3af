"""What `lorafuse bench many` times, in a process of its own.

The Python of another checkout runs it too, as a script; so it calls only what older versions have.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from lorafuse_bench.bench.merge import random_pool
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.base import Merge
from lorafuse_bench.zoo.manifest import Zoo


def fuse(spec: str, pool: ExpertPool) -> Any:
    """All that a method makes of the experts before the model runs."""
    method = registry.parse(spec)
    return (
        method.fuse(pool)
        if isinstance(method, Merge)
        else method.updates(cast(Any, SimpleNamespace(pool=pool)))
    )


MAPS = 4
"""Of each shape: several may be fused at a time."""
UNITS = {"cpu_seconds": time.process_time, "seconds": time.perf_counter}
"""Processor seconds of this process, which other work on the machine hardly changes, and seconds as they pass."""


def spent(work: Callable[[], Any]) -> dict[str, float]:
    """What the work takes, in every unit."""
    starts = {unit: clock() for unit, clock in UNITS.items()}
    work()
    return {unit: clock() - starts[unit] for unit, clock in UNITS.items()}


def measure(
    specs: Sequence[str], shapes: Sequence[tuple[int, int]], experts: int, rank: int, zoo: str
) -> dict[str, dict[str, float]]:
    """What a map takes, in every unit: of each method, the mean over the shapes; of loading, over the zoo's maps."""
    found = {spec: dict.fromkeys(UNITS, 0.0) for spec in specs}
    for shape in shapes:
        pool = random_pool(shape, experts, rank)
        (stack,) = pool.modules.values()
        pool.modules = {f"layers.{i}": stack for i in range(MAPS)}
        for spec, sums in found.items():
            fuse(spec, pool)  # a model has many maps of a shape: what only the first ones cost is left out
            for unit, value in spent(partial(fuse, spec, pool)).items():
                sums[unit] += value / MAPS / len(shapes)
    pools: list[ExpertPool] = []
    loading = spent(lambda: pools.append(ExpertPool.from_zoo(Zoo.open(Path(zoo)))))
    return found | {"loading": {unit: value / len(pools[0].modules) for unit, value in loading.items()}}


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
