"""Fusing many experts, here and by another checkout in turns: `lorafuse bench many`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lorafuse_bench.bench import many_probe
from lorafuse_bench.bench.models import Shape, random_zoo
from lorafuse_bench.bench.timing import Timings, machine, target
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion import registry
from lorafuse_bench.progress import current

SHAPES = ((576, 576), (192, 576))
"""(out, in): the attention maps of a 135M model, as many of either."""
GOALS = {"svd": 5.0, "ties": 5.0, "knots": 5.0, "arrow": 2.0, "spectr": 2.0}
"""How many times faster than commit b009255, at least."""
_OURS, _THEIRS = "ours", "against"

Found = dict[str, dict[str, float]]
"""What each method takes in each unit."""


def run(
    methods: Sequence[str] = tuple(GOALS),
    shapes: Sequence[tuple[int, int]] = SHAPES,
    experts: int = 128,
    rank: int = 8,
    rounds: int = 3,
    against: Path | None = None,
) -> dict[str, Any]:
    """Seconds a map of each method, and of loading the seven maps of a block as wide as the first shape.

    against: the Python of another checkout's environment; processes of both take turns, and ratios are of one round.
    LorafuseError where a process fails.
    """
    registry.parse_all(",".join(methods))
    pythons = {_OURS: sys.executable} | ({_THEIRS: str(against)} if against else {})
    found: dict[str, list[Found]] = {side: [] for side in pythons}
    with tempfile.TemporaryDirectory() as folder, current().step(f"fusing {experts} experts"):
        width = max(64, shapes[0][1] // 64 * 64)
        random_zoo(Path(folder), Shape(hidden_size=width, layers=1, vocabulary=64, rank=rank), experts)
        asked = {"specs": list(methods), "shapes": shapes, "experts": experts, "rank": rank, "zoo": folder}
        with current().bar(rounds * len(pythons), "processes") as part:
            for turn in range(rounds):
                for side in list(pythons)[:: -1 if turn % 2 else 1]:
                    found[side].append(_measured(pythons[side], json.dumps(asked)))
                    part.update()
    timed = {
        unit: {
            name: Timings({side: [each[name][unit] for each in rows] for side, rows in found.items()})
            for name in (*methods, "loading")
        }
        for unit in many_probe.UNITS
    }
    return {
        "schema": "lorafuse.bench.many/2",
        "machine": machine(),
        "shapes": [f"{out}x{into}" for out, into in shapes],
        "experts": experts,
        "rank": rank,
        "rounds": rounds,
        **{
            f"{unit}_a_map": {name: timings.against(_OURS) for name, timings in each.items()}
            for unit, each in timed.items()
        },
        "targets": [
            target(
                f"{name}: against / ours, {unit.replace('_', ' ')}",
                timings.ratio(_THEIRS, _OURS),
                at_least=GOALS.get(name, 1),
            )
            for unit, each in timed.items()
            for name, timings in each.items()
            if against
        ],
    }


def _measured(python: str, asked: str) -> Found:
    """What the probe finds, run by this Python; `-I` keeps the folder it is called in out of its way."""
    try:
        done = subprocess.run([python, "-I", many_probe.__file__, asked], capture_output=True, text=True)
    except OSError as error:
        raise LorafuseError(
            f"bench many: {python} cannot be run ({error.strerror}). Name a Python."
        ) from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise LorafuseError(f"bench many: {python} failed: {last}. It needs lorafuse_bench.")
    found: Found = json.loads(done.stdout.splitlines()[-1])
    return found
