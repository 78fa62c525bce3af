"""What a zoo's folder says of its trained experts, and the manifest made from it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.training.settings import ExpertSettings
from lorafuse_bench.zoo.describe import describe_base, describe_expert
from lorafuse_bench.zoo.manifest import (
    EMBEDDED,
    Manifest,
    Zoo,
    embedded_root,
    local_model,
    weights_sha256,
)

RECORD = "training.json"


def identity(base: str, key: str, source: str, settings: ExpertSettings) -> dict[str, Any]:
    """What makes a trained expert this one: a run that differs in any of it is another expert."""
    return {"task": key, "base_sha256": base_sha256(base), "source": source, "settings": plain(settings)}


def plain(settings: ExpertSettings) -> dict[str, Any]:
    """Settings as JSON has them."""
    return {**asdict(settings), "targets": list(settings.targets)}


def work_folder(out: Path, name: str, identity: Mapping[str, Any]) -> Path:
    """Where a run keeps its checkpoints: another run of the same name has another folder."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return out / ".training" / f"{name}-{digest[:16]}"


def check_length(out: Path, cutoff: int) -> None:
    """LorafuseError when the zoo at `out`, if there is one, is of rows of another length."""
    if (out / "manifest.json").is_file():
        with_length(Zoo.open(out).manifest, cutoff)


def with_length(manifest: Manifest, cutoff: int) -> Manifest:
    """The manifest with `cutoff` as its length; LorafuseError when it has another."""
    if manifest.max_length not in (None, cutoff):
        raise LorafuseError(
            f"zoo '{manifest.name}' is of rows of at most {manifest.max_length} tokens, not {cutoff}."
            f" Use --cutoff {manifest.max_length}, or another --out."
        )
    return manifest.model_copy(update={"max_length": cutoff})


def is_finished(base: str, key: str, out: Path, source: str, settings: ExpertSettings) -> bool:
    """Whether `out` holds this expert; LorafuseError when it holds another of the same name."""
    path = out / "experts" / key / RECORD
    if not path.is_file():
        return False
    record = json.loads(path.read_text())
    # A setting that is younger than the record had its default then.
    record["settings"] = plain(type(settings)()) | record["settings"]
    wanted = identity(base, key, portable_source(source, out), settings)
    for field, value in wanted.items():
        if record.get(field) != value:
            raise LorafuseError(
                f"{path.parent} was trained with another {field} than asked for now."
                f" Use another --out, or delete that folder to train it again."
            )
    return True


def write_manifest(base: str, out: Path, source: str, settings: ExpertSettings, name: str | None) -> Zoo:
    """Describe every finished expert below `out`, keeping what the manifest says of other parts."""
    records = {
        p.parent.name: json.loads(p.read_text()) for p in sorted((out / "experts").glob(f"*/{RECORD}"))
    }
    entries = tuple(
        describe_expert(out, f"experts/{key}", key, [record["task"]], record["base_sha256"])
        for key, record in records.items()
    )
    kept = Zoo.open(out).manifest if (out / "manifest.json").is_file() else None
    manifest = Manifest(
        schema="lorafuse.zoo/1",
        name=name or (kept.name if kept else out.resolve().name),
        seed=settings.seed,
        base=describe_base(base, out, kept.base if kept else None),
        init=settings.init,
        experts=entries,
        routers=kept.routers if kept else (),
        adapters=kept.adapters if kept else (),
        data=portable_source(source, out),
        max_length=settings.cutoff,
        training={**(kept.training if kept else {}), "experts": records},
    )
    zoo = Zoo(out, manifest)
    zoo.save()
    return zoo


def base_sha256(base: str) -> str:
    """Hash of the base's weights, in its folder or in the hub's cache."""
    return weights_sha256(local_model(Path(base), base))


def portable_source(source: str, out: Path) -> str:
    """How a zoo at `out` names its data: `hub`, `mini`, or a folder relative to the zoo."""
    if source in ("hub", EMBEDDED):
        return source
    if Path(source).resolve() == (embedded_root() / "data").resolve():
        return EMBEDDED
    return os.path.relpath(Path(source).resolve(), out.resolve())
