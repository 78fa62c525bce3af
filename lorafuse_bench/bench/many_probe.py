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


def cpu_seconds(work: Callable[[], Any]) -> float:
    """Processor seconds of this process, which other work on the machine hardly changes."""
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(
    specs: Sequence[str], shapes: Sequence[tuple[int, int]], experts: int, rank: int, zoo: str
) -> dict[str, float]:
    """Processor seconds a map: of each method, the mean over the shapes; of loading, over the maps of the zoo."""
    found = dict.fromkeys(specs, 0.0)
    for shape in shapes:
        pool = random_pool(shape, experts, rank)
        for spec in specs:
            fuse(spec, pool)  # a model has many maps of a shape: what only the first one costs is left out
            found[spec] += cpu_seconds(partial(fuse, spec, pool)) / len(shapes)
    pools: list[ExpertPool] = []
    seconds = cpu_seconds(lambda: pools.append(ExpertPool.from_zoo(Zoo.open(Path(zoo)))))
    return found | {"loading": seconds / len(pools[0].modules)}


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
