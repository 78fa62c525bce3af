"""What a zoo's folder says of its trained adapters: names, files, and the manifest's entries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import check_free, move_folder, read_json, sha256_file, write_bytes, write_json
from lorafuse_bench.fused import ADAPTER_WEIGHTS
from lorafuse_bench.fusion.adapters.trained import TrainedAdapter, TrainedUpdate, derived_of, tensors_of
from lorafuse_bench.fusion.base import FusionMethod
from lorafuse_bench.training.decompositions import is_slow
from lorafuse_bench.training.records import base_sha256, check_same, portable_source, with_length, zoo_name
from lorafuse_bench.training.settings import AdapterSettings
from lorafuse_bench.zoo.describe import describe_base
from lorafuse_bench.zoo.installed import writable
from lorafuse_bench.zoo.manifest import AdapterEntry, Manifest, Zoo

CONFIG = "adapter.json"
DESCRIBED = ("steps", "rows", "tokens", "loss", "device", "dtype")
"""What became of a training, for the manifest."""
AGAIN = "Delete its folder and train the adapter again."


def trained_options(method: TrainedAdapter) -> dict[str, Any]:
    """The options that shape what is trained."""
    return {key: value for key, value in method.options().items() if key != "trained_on"}


def adapter_name(method: TrainedAdapter, suite: str) -> str:
    """`moore/mtl7`, or `moore/mtl7-d_t=16-reflections=2` with the options that differ from default.

    The tasks of a suite by name are joined by +.
    """
    changed = replace(method, trained_on=None).label().partition(":")[2]
    return f"{method.name}/{suite.replace('/', '+')}" + "".join(
        f"-{part.replace('/', '_')}" for part in changed.split("+") if part
    )


def save_tensors(folder: Path, updates: Mapping[str, TrainedUpdate]) -> None:
    """Write all parameters of an adapter, and what it derived from the base where that takes long.

    Slow are those that decompositions.py says; they take about twice the base's size.
    """
    tensors = tensors_of(updates)
    derived = derived_of(updates)
    if is_slow(derived):
        tensors |= derived
    tensors = {key: value.cpu().contiguous() for key, value in tensors.items()}
    write_bytes(folder / ADAPTER_WEIGHTS, save(tensors))


def enter(zoo: Zoo, name: str) -> AdapterEntry:
    """Describe the adapter in `adapters/<name>` in the manifest, in place of one of the same name."""
    folder = zoo.root / "adapters" / name
    record = read_json(folder / CONFIG, AGAIN)
    described = {key: record[key] for key in DESCRIBED if key in record}
    entry = AdapterEntry(
        name=name,
        path=f"adapters/{name}",
        sha256=sha256_file(folder / ADAPTER_WEIGHTS),
        settings=record["settings"] | {"trained": described},
        **{key: record[key] for key in ("method", "options", "trained_on", "base_sha256", "parameters")},
        tasks=tuple(record["tasks"]),
    )

    def entered(there: Manifest | None) -> Manifest:
        manifest = with_length(there or zoo.manifest, zoo.manifest.max_length)
        adapters = {old.name: old for old in manifest.adapters} | {name: entry}
        return manifest.model_copy(update={"adapters": tuple(adapters.values())})

    Zoo.update(zoo.root, entered)
    return entry


def zoo_at(base: str, out: Path, source: str, seed: int, cutoff: int) -> Zoo:
    """The zoo at `out`, or a new one without experts."""
    writable(out)
    sha256 = base_sha256(base)
    if (out / "manifest.json").is_file():
        zoo = Zoo.open(out)
        if zoo.manifest.base.sha256 != sha256:
            raise LorafuseError(
                f"'{base}' is not the base of zoo '{zoo.name}' ({zoo.manifest.base.path})."
                " Leave it out, or use another --out."
            )
        return Zoo(out, with_length(zoo.manifest, cutoff))
    manifest = Manifest(
        schema="lorafuse.zoo/1",
        name=zoo_name(out),
        seed=seed,
        base=describe_base(base, out),
        init="shared",
        data=portable_source(source, out),
        max_length=cutoff,
    )
    return Zoo(out, manifest)


def finished(folder: Path, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of this adapter where it is there; LorafuseError when one of the same name was trained otherwise."""
    if not (folder / CONFIG).is_file():
        check_free(folder)
        return None
    # What is younger than the folder had its default then; what is gone made no other adapter.
    found = {"version": FusionMethod.version} | read_json(folder / CONFIG, AGAIN)
    settings = asdict(AdapterSettings()) | found.get("settings", {})
    found["settings"] = {key: settings.get(key) for key in record["settings"]}
    check_same(folder, found, record)
    return found


def finish(ready: Path, folder: Path, record: Mapping[str, Any]) -> None:
    """Complete the folder `ready` and move it into place in one step."""
    write_json(ready / CONFIG, record)
    move_folder(ready, folder)
