"""The fits that a zoo has already: what makes two the same, and what one learned for another to take over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lorafuse_bench import artefacts
from lorafuse_bench.device import Compute
from lorafuse_bench.files import sha256_file
from lorafuse_bench.fusion.base import FusionMethod
from lorafuse_bench.zoo.entries import FittedOn
from lorafuse_bench.zoo.manifest import ArtefactEntry, Zoo

if TYPE_CHECKING:
    from lorafuse_bench.training.fit_run import FitSettings

IDENTITY = "identity"
"""Where an entry's settings say what it is of."""


def identity(method: FusionMethod, fitted_on: FittedOn, settings: FitSettings) -> dict[str, Any]:
    """What a fit is of: of two with the same identity one is kept."""
    told = asdict(settings) | {"rates": list(settings.rates) if settings.rates else None}
    return {**_learned(method, fitted_on), "settings": told}


def _learned(method: FusionMethod, fitted_on: FittedOn) -> dict[str, Any]:
    return {
        "method": method.label(),
        "version": method.version,
        "fitted_on": fitted_on.model_dump(mode="json"),
    }


def alike(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether an identity says what is `wanted`; older ones say nothing of documents."""
    made = {"documents_sha256": None} | (known.get("fitted_on") or {})
    asked = dict(wanted["fitted_on"])
    if made["documents_sha256"] is None:
        asked["documents_sha256"] = None
    return made == asked and all(known.get(key) == wanted[key] for key in wanted.keys() - {"fitted_on"})


def is_there(zoo: Zoo, entry: ArtefactEntry) -> bool:
    """Whether the file of an entry is the one that the manifest describes."""
    path = zoo.root / entry.path / entry.file
    return path.is_file() and sha256_file(path) == entry.sha256


def kept_fit(
    zoo: Zoo, method: FusionMethod, fitted_on: FittedOn, compute: Compute
) -> tuple[ArtefactEntry, dict[str, Tensor]] | None:
    """The zoo's fit of a method on the same experts, base and rows, computed alike; None where it has none."""
    wanted = _learned(method, fitted_on)
    for entry in zoo.manifest.artefacts:
        known = entry.settings.get(IDENTITY) or {}
        if (
            alike(known, wanted)
            and compute.record().items() <= entry.settings.items()
            and is_there(zoo, entry)
        ):
            return entry, dict(artefacts.load(zoo, entry, compute.device).tensors)
    return None
