"""Describing PEFT adapters that exist already as a zoo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorafuse_bench.errors import LorafuseError, unknown
from lorafuse_bench.experts import ExpertPool, LoraExpert
from lorafuse_bench.zoo.describe import describe_base, describe_expert, portable
from lorafuse_bench.zoo.entries import BaseEntry, Manifest, read_manifest
from lorafuse_bench.zoo.hashes import base_files, check_alone, check_weights, weights_sha256
from lorafuse_bench.zoo.installed import writable
from lorafuse_bench.zoo.manifest import Zoo

_INITS = ("shared", "independent")


def index_adapters(
    root: Path,
    base: str | None = None,
    data: str | None = None,
    init: str | None = None,
    tasks: Mapping[str, Sequence[str]] | None = None,
) -> Zoo:
    """Write `root/manifest.json` for the adapters in `root/experts/<name>/`, and return the zoo.

    Every adapter is read and checked as for fusing. The folder name is the expert's name and task key; `tasks`
    names others by expert. `base` is a folder or hub id; nothing in an adapter proves its base, so this is
    taken on trust here and enforced by hash from then on. Of a manifest that is there already, everything
    stays that is neither found in the folders nor given. Raises LorafuseError for an adapter that cannot be fused.
    """
    writable(root)
    if init is not None and init not in _INITS:
        raise unknown("initialisation", init, _INITS)
    folders = sorted(p.parent for p in (root / "experts").glob("*/adapter_config.json"))
    if not folders:
        raise LorafuseError(f"no adapters in {root / 'experts'}. Put each in experts/<task>/ in PEFT format.")
    for name in tasks or ():
        if name not in {folder.name for folder in folders}:
            raise unknown(f"expert in {root / 'experts'}", name, [folder.name for folder in folders])
    kept = read_manifest(root / "manifest.json") if (root / "manifest.json").is_file() else None
    described = _base(root, base, kept)
    before = {entry.name: entry for entry in kept.experts} if kept else {}
    named = {name: entry.tasks for name, entry in before.items()} | dict(tasks or {})
    experts, entries = [], []
    for folder in folders:
        name = folder.name
        check_alone(folder, f"adapter '{name}'")
        experts.append(LoraExpert.load(folder, name, named.get(name, [name])[0], described.sha256))
        entry = describe_expert(root, f"experts/{name}", name, named.get(name, [name]), described.sha256)
        entries.append(entry.model_copy(update={"bank": before[name].bank}) if name in before else entry)
    ExpertPool(experts)
    found: dict[str, Any] = {"base": described, "experts": tuple(entries)}
    found |= {"data": portable(data, root)} if data else {}
    found |= {"init": init} if init else {}
    new = {"name": root.resolve().name, "seed": 0, "init": "independent", "data": "hub"}
    zoo = Zoo(root, kept.model_copy(update=found) if kept else Manifest.model_validate({**new, **found}))
    zoo.save()
    return zoo


def _base(root: Path, base: str | None, kept: Manifest | None) -> BaseEntry:
    """The base that is named, or the one that the zoo has, as it is now."""
    if base is None and kept is None:
        raise LorafuseError(
            f"{root} is no zoo yet. Say with --base which model its adapters were trained on."
        )
    if base is None and kept is not None:
        folder = Zoo(root, kept).find_base()
        check_weights(folder)
        return kept.base.model_copy(update={"sha256": weights_sha256(folder), "files": base_files(folder)})
    if base is None:
        raise LorafuseError(
            f"{root} is no zoo yet. Say with --base which model its adapters were trained on."
        )
    return describe_base(base, root, kept.base if kept else None)
