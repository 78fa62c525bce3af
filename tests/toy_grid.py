"""A plan of cells that take a moment each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from lorafuse_bench import runner
from lorafuse_bench.fusion import registry
from lorafuse_bench.zoo.manifest import Zoo

SUITE = "qnli/sst2"


def plan(zoo: Zoo, out: Path, methods: str = "base", **changes: Any) -> runner.Plan:
    """These methods on one item of each of two tasks, where `changes` say nothing else."""
    chosen = registry.parse_all(methods)
    made = runner.Plan(chosen, [SUITE], out, zoo.root, limit=1, batch_size=8, device="cpu")
    return replace(made, **changes)
