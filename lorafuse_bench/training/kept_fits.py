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


def identity(
    method: FusionMethod, fitted_on: FittedOn, settings: FitSettings | None = None
) -> dict[str, Any]:
    """What a fit is of; without its settings, where what is learned does not depend on them."""
    found = {
        "method": method.label(),
        "version": method.version,
        "fitted_on": fitted_on.model_dump(mode="json"),
    }
    if settings is not None:
        found["settings"] = asdict(settings) | {"rates": list(settings.rates) if settings.rates else None}
    return found


def is_there(zoo: Zoo, entry: ArtefactEntry) -> bool:
    """Whether the file of an entry is the one that the manifest describes."""
    path = zoo.root / entry.path / entry.file
    return path.is_file() and sha256_file(path) == entry.sha256


def kept_fit(zoo: Zoo, wanted: Mapping[str, Any], compute: Compute) -> dict[str, Tensor] | None:
    """The tensors of a fit whose identity has all of `wanted`, computed alike; None where the zoo has none."""
    for entry in zoo.manifest.artefacts:
        same = wanted.items() <= dict(entry.settings.get(IDENTITY) or {}).items()
        if same and compute.record().items() <= entry.settings.items() and is_there(zoo, entry):
            return dict(artefacts.load(zoo, entry, compute.device).tensors)
    return None
