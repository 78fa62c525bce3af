"""Finding what was learned on a zoo's experts, and refusing what was learned on others."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.files import sha256_file
from lorafuse_bench.fusion.base import FusionMethod, Learned
from lorafuse_bench.fusion.fitted import Fitted
from lorafuse_bench.zoo.manifest import ArtefactEntry, Zoo


def entry_of(zoo: Zoo, method: FusionMethod, pool: ExpertPool) -> ArtefactEntry:
    """The zoo's newest fit of `method` with these options on the experts of `pool`.

    LorafuseError, with the command that fits, where there is none, where experts or base changed since, and
    where fits on several suites serve and the method names none.
    """
    fitted = cast(Fitted, method)
    ours = [entry for entry in zoo.manifest.artefacts if entry.method == method.name]
    alike = [entry for entry in ours if _alike(entry, fitted)]
    if not alike:
        have = ", ".join(entry.name for entry in ours) or "none"
        raise LorafuseError(
            f"zoo '{zoo.name}' has no fit of method '{method.label()}' (of this method it has: {have})."
            f" Fit it: {command(zoo, fitted, pool)}"
        )
    reasons = {entry.name: _stale(zoo, entry, fitted, pool) for entry in alike}
    fresh = [entry for entry in alike if reasons[entry.name] is None]
    if not fresh:
        newest = alike[-1]
        raise LorafuseError(
            f"fit '{newest.name}' of zoo '{zoo.name}' is not of what is used now: {reasons[newest.name]}."
            f" Fit again: {command(zoo, fitted, pool, _suite(newest))}"
        )
    suites = {_suite(entry) for entry in fresh}
    if len(suites) > 1:
        named = ", ".join(sorted(str(suite) for suite in suites))
        raise LorafuseError(
            f"zoo '{zoo.name}' has fits of '{method.label()}' on {named}. Choose one with fitted_on=SUITE."
        )
    return fresh[-1]


def of(zoo: Zoo, method: FusionMethod, pool: ExpertPool, device: torch.device | None = None) -> Learned:
    """The zoo's fit of `method` on the experts of `pool`, loaded; LorafuseError as for `entry_of`."""
    return load(zoo, entry_of(zoo, method, pool), device)


def load(zoo: Zoo, entry: ArtefactEntry, device: torch.device | None = None) -> Learned:
    """What an entry describes, its tensors on `device`; the file must be the one the manifest describes."""
    again = "Restore it, or delete its entry and fit again."
    whole = read_tensors(zoo.root / entry.path / entry.file, entry.sha256, f"fit '{entry.name}'", again)
    joint = {adapter.name: adapter for adapter in entry.adapters}
    pool = ExpertPool.from_entries(zoo, [joint[name] for name in entry.experts]) if joint else None
    tensors = _Told({key: value.to(device) for key, value in whole.items()}, entry.name)
    tasks = entry.fitted_on.tasks if entry.fitted_on else ()
    settings = _Told(entry.settings, entry.name)
    return Learned(entry.name, tensors, entry.options, settings, entry.experts, pool, tasks)


class _Told(dict[str, Any]):
    """What a fit holds by name; a name that it lacks is a LorafuseError."""

    def __init__(self, held: Mapping[str, Any], fit: str) -> None:
        super().__init__(held)
        self.fit = fit

    def __missing__(self, name: str) -> Any:
        raise LorafuseError(f"fit '{self.fit}' holds no '{name}'. Delete its entry and fit again.")


def read_tensors(path: Path, sha256: str, whose: str, again: str) -> dict[str, Tensor]:
    """The tensors in a file that a manifest describes by its hash.

    LorafuseError, ending in `again`, where it is another file, damaged, or holds what is no finite number.
    """
    if not path.is_file() or sha256_file(path) != sha256:
        raise LorafuseError(f"{whose}: {path} is missing or not the file the manifest describes. {again}")
    try:
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise LorafuseError(f"{whose}: {path} is damaged ({error}). {again}") from error
    for key, tensor in found.items():
        if tensor.is_complex() or not bool(tensor.isfinite().all()):
            raise LorafuseError(f"{whose}: {key} in {path} holds NaN, infinity or complex numbers. {again}")
    return found


def command(zoo: Zoo, method: Fitted, pool: ExpertPool, suite: str | None = None) -> str:
    """The command that fits `method` on the experts of `pool`."""
    other = method.made_by(str(zoo.root))
    if other is not None:
        return other
    plain = replace(
        method,
        fitted_on=None,
        **{key: type(method).__dataclass_fields__[key].default for key in method.at_use},
    )
    words = ["lorafuse", "fit", plain.label(), "--suite", suite or method.fitted_on or "SUITE"]
    words += ["--zoo", str(zoo.root)]
    if pool.names != tuple(entry.name for entry in zoo.manifest.experts):
        words += ["--experts", ",".join(pool.names)]
    return shlex.join(words)


def _alike(entry: ArtefactEntry, method: Fitted) -> bool:
    """Whether an entry was learned with the method's options; what it does not say had its default."""
    wanted = method.fit_options()
    defaults = type(method)().fit_options()
    named = method.fitted_on
    return {**defaults, **entry.options} == wanted and named in (None, _suite(entry))


def _suite(entry: ArtefactEntry) -> str | None:
    return entry.fitted_on.suite if entry.fitted_on else None


def _stale(zoo: Zoo, entry: ArtefactEntry, method: Fitted, pool: ExpertPool) -> str | None:
    """What differs between what an entry was learned on and what is used now; None if nothing does."""
    if not method.serves(entry.experts, pool.names):
        return f"it is of the experts {_named(entry.experts)}, in use are {_named(pool.names)}"
    known = entry.fitted_on
    if known is None:
        return None
    if known.base_sha256 != zoo.manifest.base.sha256:
        return f"its base is {known.base_sha256[:12]}, the zoo's is {zoo.manifest.base.sha256[:12]}"
    hashes = dict(zip(entry.experts, known.experts, strict=True))
    used = entry.adapters or pool.experts
    changed = [e.name for e in used if e.name in hashes and hashes[e.name] != e.sha256]
    return f"expert '{changed[0]}' changed" if changed else None


def _named(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:7])} and {len(names) - 7} more"
