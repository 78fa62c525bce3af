"""Describing PEFT adapters that exist already as a zoo."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lorafuse_bench.base_model import check_fit
from lorafuse_bench.errors import LorafuseError, unknown
from lorafuse_bench.experts import ExpertPool, LoraExpert
from lorafuse_bench.peft_settings import CONFIG
from lorafuse_bench.zoo.describe import describe_base, describe_expert, portable
from lorafuse_bench.zoo.entries import BaseEntry, Manifest, check_key, check_name, read_manifest
from lorafuse_bench.zoo.hashes import base_files, check_alone, check_weights, weights_sha256
from lorafuse_bench.zoo.installed import writable
from lorafuse_bench.zoo.manifest import Zoo

_INITS = ("shared", "independent")
_CHECKPOINT = re.compile(r"checkpoint-\d+")


def index_adapters(
    root: Path,
    base: str | None = None,
    data: str | None = None,
    init: str | None = None,
    tasks: Mapping[str, Sequence[str]] | None = None,
    report: Callable[[str], None] = lambda line: None,
    name: str | None = None,
) -> Zoo:
    """Write `root/manifest.json` for the adapters in `root/experts/<name>/`, and return the zoo.

    Every adapter is read and checked as for fusing, and its modules against the base's, whose weights are not
    read. The folder below experts/ is the expert's name and task key; PEFT saves a named adapter one folder
    deeper, where it is found. `tasks` names other tasks by expert. `base` is a folder or hub id; nothing in an
    adapter proves its base, so this is taken on trust here and enforced by hash from then on. Of a manifest that
    is there already, everything stays that is neither found in the folders nor given. `name` is a new zoo's, by
    default its folder's. `report` is told of checkpoints left out and of bases that the adapters name differently.
    Raises LorafuseError for an adapter that cannot be fused, and for a folder that holds several.
    """
    writable(root)
    if init is not None and init not in _INITS:
        raise unknown("initialisation", init, _INITS)
    folders = dict(_adapter_folders(root / "experts", report))
    if not folders:
        raise LorafuseError(f"no adapters in {root / 'experts'}. Put each in experts/<task>/ in PEFT format.")
    _check_tasks(tasks or {}, folders)
    kept = read_manifest(root / "manifest.json") if (root / "manifest.json").is_file() else None
    described = _base(root, base, kept)
    before = {entry.name: entry for entry in kept.experts} if kept else {}
    named = {name: entry.tasks for name, entry in before.items()} | dict(tasks or {})
    experts, entries = [], []
    for key, folder in folders.items():
        check_alone(folder, f"adapter '{key}'")
        own = named.get(key, [key])
        experts.append(LoraExpert.load(folder, key, own, described.sha256))
        entry = describe_expert(root, folder.relative_to(root).as_posix(), key, own, described.sha256)
        told = {"bank": before[key].bank, "rows": before[key].rows} if key in before else {}
        entries.append(entry.model_copy(update=told))
    found: dict[str, Any] = {"base": described, "experts": tuple(entries)}
    found |= {"data": portable(data, root)} if data else {}
    found |= {"init": init} if init else {}
    called = check_name(name or root.resolve().name, "the zoo's folder")
    new = {"name": called, "seed": 0, "init": "independent", "data": "hub"}
    indexed = Zoo(root, kept.model_copy(update=found) if kept else Manifest.model_validate({**new, **found}))
    check_fit(indexed.find_base(), ExpertPool(experts))
    _report_bases(experts, report)
    return Zoo.update(root, lambda there: there.model_copy(update=found) if there else indexed.manifest)


def _check_tasks(tasks: Mapping[str, Sequence[str]], folders: Mapping[str, Path]) -> None:
    for expert, keys in tasks.items():
        if expert not in folders:
            raise unknown("expert", expert, folders, "in the folder")
        for key in keys:
            check_key(key, f"task of expert '{expert}'")


def _base(root: Path, base: str | None, kept: Manifest | None) -> BaseEntry:
    """The base that is named, or the one that the zoo has, as it is now."""
    if base is not None:
        return describe_base(base, root, kept.base if kept else None)
    if kept is None:
        raise LorafuseError(
            f"{root} is not a zoo yet. Say with --base which model its adapters were trained on."
        )
    folder = Zoo(root, kept).find_base()
    check_weights(folder)
    return kept.base.model_copy(update={"sha256": weights_sha256(folder), "files": base_files(folder)})


def _adapter_folders(experts: Path, report: Callable[[str], None]) -> Iterator[tuple[str, Path]]:
    """Each task with the folder of its adapter; a folder nearer to experts/ goes before those inside it."""
    if (experts / CONFIG).exists():
        raise LorafuseError(f"there is an adapter in {experts} itself. Move it to {experts}/<task>/.")
    for task in sorted(path for path in experts.glob("[!.]*") if path.is_dir()):
        check_key(task.name, "the expert's folder")
        found = sorted(file.parent for file in task.rglob(CONFIG))
        final = [path for path in found if not _CHECKPOINT.fullmatch(path.name)]
        outermost = [path for path in final if not any(other in path.parents for other in final)]
        if len(outermost) != 1 and found:
            held = ", ".join(str(path.relative_to(experts)) for path in found)
            raise LorafuseError(
                f"{task} holds {'several adapters' if final else 'only checkpoints'} ({held}), and an expert is one."
                " Move the right one, or each, to its own folder under experts/, named after its task."
            )
        left_out = [str(path.relative_to(experts)) for path in found if path not in outermost]
        if left_out:
            report(f"left out, being inside {outermost[0].relative_to(experts)}: {', '.join(left_out)}")
        if outermost:
            yield task.name, outermost[0]
        else:
            report(f"left out, holding no {CONFIG}: {task.name}")


def _report_bases(experts: Sequence[LoraExpert], report: Callable[[str], None]) -> None:
    """Say which bases the adapters name where these differ."""
    named: dict[str, list[str]] = {}
    for expert in experts:
        if expert.base is not None:
            named.setdefault(expert.base, []).append(expert.name)
    if len(named) > 1:
        told = "; ".join(f"{base} ({', '.join(names)})" for base, names in named.items())
        report(f"the adapters name different bases: {told}. Nothing in them proves which is right.")
