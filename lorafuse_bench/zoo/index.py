"""Describing PEFT adapters that exist already as a zoo."""

from __future__ import annotations

import os
from pathlib import Path

from lorafuse_bench.errors import LorafuseError, unknown
from lorafuse_bench.experts import ExpertPool, LoraExpert
from lorafuse_bench.zoo.manifest import BaseEntry, ExpertEntry, Manifest, Zoo, local_model, weights_sha256

_INITS = ("shared", "independent")


def index_adapters(root: Path, base: str, data: str = "hub", init: str = "independent") -> Zoo:
    """Write `root/manifest.json` for the adapters in `root/experts/<name>/`, and return the zoo.

    Every adapter is read and checked as for fusing. The folder name is the expert's name and task key.
    `base` is a folder or hub id; nothing in an adapter proves its base, so this is taken on trust here
    and enforced by hash from then on. Raises LorafuseError for an adapter that cannot be fused.
    """
    if init not in _INITS:
        raise unknown("initialisation", init, _INITS)
    folders = sorted(p.parent for p in (root / "experts").glob("*/adapter_config.json"))
    if not folders:
        raise LorafuseError(f"no adapters in {root / 'experts'}. Put each in experts/<task>/ in PEFT format.")
    digest = weights_sha256(local_model(Path(base), base))
    experts = [LoraExpert.load(folder, folder.name, folder.name, digest) for folder in folders]
    ExpertPool(experts)
    entries = tuple(
        ExpertEntry(
            name=e.name, tasks=(e.task,), path=f"experts/{e.name}", sha256=e.sha256, base_sha256=digest
        )
        for e in experts
    )

    def portable(path: str) -> str:
        return os.path.relpath(Path(path).resolve(), root.resolve()) if Path(path).is_dir() else path

    manifest = Manifest.model_validate(
        {
            "name": root.resolve().name,
            "seed": 0,
            "base": BaseEntry(path=portable(base), sha256=digest),
            "init": init,
            "experts": entries,
            "data": portable(data),
        }
    )
    zoo = Zoo(root, manifest)
    zoo.save()
    return zoo
