"""Which experts a bank has: one for each task, one for each cluster of tasks, or one for all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.training.records import Wanted
from lorafuse_bench.zoo.entries import Bank
from lorafuse_bench.zoo.manifest import Zoo


def experts_of(bank: Bank, tasks: Sequence[str], out: Path) -> list[Wanted]:
    """The experts of a bank for these tasks (keys), to be trained into the zoo at `out`.

    `mbc` goes by the clusters in the zoo's manifest; LorafuseError where there are none, where an expert
    changed since, or where a task is in none. A cluster without any of the tasks gets no expert.
    """
    if bank == "private":
        return [Wanted.private(task) for task in tasks]
    if bank == "shared":
        return [Wanted("shared", tuple(tasks), bank)]
    groups = clustered_tasks(out)
    width = len(str(len(groups) - 1))
    wanted = [
        (f"mbc-{i:0{width}}", [task for task in tasks if task in group]) for i, group in enumerate(groups)
    ]
    missing = set(tasks).difference(*groups)
    if missing:
        raise LorafuseError(
            f"no cluster of {out} has {', '.join(sorted(missing))}. Train the private experts of these tasks, and"
            f" cluster again: {_cluster(out)}"
        )
    return [Wanted(name, tuple(own), bank) for name, own in wanted if own]


def clustered_tasks(out: Path) -> list[set[str]]:
    """The tasks of each cluster of the zoo at `out`; LorafuseError where its clusters are not of its experts."""
    there = (out / "manifest.json").is_file()
    zoo = Zoo.open(out) if there else None
    if zoo is None or zoo.manifest.clusters is None:
        first = "" if there else f" Train private experts first: lorafuse train experts --out {out}."
        raise LorafuseError(f"{out} has no clusters of experts.{first} Then: {_cluster(out)}")
    clusters, known = zoo.manifest.clusters, {entry.name: entry for entry in zoo.manifest.experts}
    for name, sha256 in clusters.experts.items():
        if name not in known or known[name].sha256 != sha256:
            raise LorafuseError(
                f"expert '{name}' of {out} changed since it was clustered. Again: {_cluster(out)}"
            )
    return [{task for name in group for task in known[name].tasks} for group in clusters.members]


def _cluster(out: Path) -> str:
    return f"lorafuse zoo cluster {out} --clusters 10"
