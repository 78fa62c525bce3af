"""Entries of a manifest, made from the files they describe."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from lorafuse_bench.files import sha256_file
from lorafuse_bench.zoo.entries import BaseEntry, ExpertEntry
from lorafuse_bench.zoo.hashes import LORA_WEIGHTS, adapter_files, base_files, check_weights, weights_sha256
from lorafuse_bench.zoo.installed import EMBEDDED
from lorafuse_bench.zoo.locate import local_model

_COMMIT = re.compile(r"[0-9a-f]{40}")


def describe_base(base: str, root: Path, kept: BaseEntry | None = None) -> BaseEntry:
    """The base `base`, a folder, `mini` or a hub id, as the manifest of a zoo at `root` describes it.

    A folder is named relative to the zoo, a hub model by its id and commit. Where `kept` has the same weights,
    its name, hub id and command stay.
    """
    return keeping(_describe(base, root), kept)


def keeping(new: BaseEntry, kept: BaseEntry | None) -> BaseEntry:
    """The entry `new` with the name, hub id and command of `kept`, where that has the same weights."""
    if kept is None or kept.sha256 != new.sha256:
        return new
    told = {key: getattr(kept, key) or getattr(new, key) for key in ("name", "hub", "make", "revision")}
    return new.model_copy(update=told)


def _describe(base: str, root: Path) -> BaseEntry:
    folder = local_model(Path(base), base)
    check_weights(folder)
    entry = BaseEntry(path=portable(base, root), sha256=weights_sha256(folder), files=base_files(folder))
    if Path(base).is_dir():
        inside = folder.resolve().is_relative_to(root.resolve())
        return entry if inside else entry.model_copy(update={"name": folder.resolve().name})
    if base == EMBEDDED:
        return entry
    commit = folder.name if _COMMIT.fullmatch(folder.name) else None  # the hub's cache names folders by it
    return entry.model_copy(update={"hub": base, "revision": commit})


def describe_expert(root: Path, path: str, name: str, tasks: Sequence[str], base_sha256: str) -> ExpertEntry:
    """The LoRA adapter in the folder `path` of the zoo at `root`."""
    return ExpertEntry(
        name=name,
        tasks=tuple(tasks),
        path=path,
        sha256=sha256_file(root / path / LORA_WEIGHTS),
        files=adapter_files(root / path),
        base_sha256=base_sha256,
    )


def portable(path: str, root: Path) -> str:
    """How a zoo at `root` names a folder: relative to itself. What is not a folder keeps its name."""
    return os.path.relpath(Path(path).resolve(), root.resolve()) if Path(path).is_dir() else path


def peft_base(base: str) -> str:
    """How an adapter's configuration names its base, so that PEFT loads it.

    PEFT takes a folder as relative to wherever its program runs, so only a whole path works, and only on
    this machine; a hub id works anywhere.
    """
    folder = Path(base) if Path(base).is_dir() else None
    if folder is None and base == EMBEDDED:
        folder = local_model(Path(base), base)
    return str(folder.resolve()) if folder else base
