"""`lorafuse fit`: learns a method's numbers on frozen experts once, and stores them in the zoo."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from safetensors.torch import save
from torch import Tensor

from lorafuse_bench.device import AUTO, Compute
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.files import sha256_file, write_bytes
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion.fitted import Fitted
from lorafuse_bench.loading import load_model
from lorafuse_bench.tasks.suites import suite as suite_of
from lorafuse_bench.training.fit_rows import FitRows, fit_rows, forget, learned_from, seen_by
from lorafuse_bench.training.fit_run import FILE, FitRun, FitSettings
from lorafuse_bench.training.kept_fits import IDENTITY, alike, identity, is_there
from lorafuse_bench.training.loop import Report
from lorafuse_bench.training.records import work_folder
from lorafuse_bench.training.team import alone
from lorafuse_bench.zoo.entries import FittedOn
from lorafuse_bench.zoo.installed import writable
from lorafuse_bench.zoo.manifest import ArtefactEntry, Manifest, Zoo
from lorafuse_bench.zoo.pools import MARK, experts_for

__all__ = ["FitSettings", "fit"]

LONGEST_NAME = 60
"""Letters that a fit's name has for those of its experts, and for those of its tasks."""


def fit(
    method: Fitted,
    suite: str,
    zoo: Zoo,
    source: str,
    settings: FitSettings,
    experts: Sequence[str] | None = None,
    seen_dev: bool = False,
    report: Report = print,
    device: str = AUTO,
    dtype: str = AUTO,
) -> ArtefactEntry:
    """Fit `method` on the rows of `suite`, and enter what it learned into the manifest of `zoo`.

    `experts`: their names, or a bank such as `@mbc`; by default those of the suite's tasks. A fit that is there
    already, of the same experts, base, rows and settings, is kept; an interrupted one goes on to the same result.
    Raises LorafuseError for a task without dev rows, and for dev rows that an expert was trained on unless
    `seen_dev`.
    """
    writable(zoo.root)
    alone("a fit")
    asked = suite_of(suite)
    tasks = tuple(asked.tasks)
    names = experts_for(zoo, tasks, experts)
    pool = ExpertPool.from_zoo(zoo, names).required_by("a fit")
    method = replace(method, fitted_on=None)
    method.check(pool)
    forget()
    rows = fit_rows(tasks, source, settings.rows, settings.dev)
    seen = _seen(zoo, rows, names, seen_dev)
    hashes = [expert.sha256 for expert in pool.experts]
    fitted_on = learned_from(zoo, asked.name, tasks, hashes, source, settings.rows, settings.dev)
    name = _name(method, asked.name, _experts(zoo, tasks, names))
    same = identity(method, fitted_on, settings)
    found = {entry.name: entry for entry in zoo.manifest.artefacts}.get(name)
    if found is not None and alike(found.settings.get(IDENTITY) or {}, same) and is_there(zoo, found):
        report(f"fit {name}: already there, kept")
        return found
    work = work_folder(zoo.root, f"fit-{name.replace('/', '-')}", same)
    given = method.given(pool)
    # Of a control's experts the zoo has no fits that another could take over.
    theirs = fitted_on if given is pool else None
    run = FitRun(_fused(zoo, given, device, dtype), tasks, rows, settings, work, name, report, theirs)
    learned = method.fit(run)
    told = {IDENTITY: same, "dev_seen_by": seen, **run.compute.record(), **run.record}
    entry = _store(zoo, name, method, learned, names, told, fitted_on)
    shutil.rmtree(work, ignore_errors=True)
    return entry


def _seen(zoo: Zoo, rows: Sequence[FitRows], names: Sequence[str], allowed: bool) -> list[str]:
    """Those of the experts that were trained on dev rows; LorafuseError naming them unless that is allowed."""
    seen = sorted(set(seen_by(zoo, rows)) & set(names))
    if seen and not allowed:
        raise LorafuseError(
            f"{', '.join(seen)} were trained on the rows that would choose the learning rate. Train experts with"
            " --held-out, or say --seen-dev to choose by them all the same."
        )
    return seen


def _fused(zoo: Zoo, pool: ExpertPool, device: str, dtype: str) -> FusedModel:
    """The zoo's frozen base and the experts, where and as they compute."""
    folder = zoo.base_folder()
    compute = Compute.of(device, dtype, folder)
    model = load_model(folder, compute.dtype).requires_grad_(False).to(compute.device)  # type: ignore[arg-type]
    return FusedModel(model, zoo, pool.to(compute.device))


def _store(
    zoo: Zoo,
    name: str,
    method: Fitted,
    learned: Mapping[str, Tensor],
    experts: tuple[str, ...],
    settings: dict[str, Any],
    fitted_on: FittedOn,
) -> ArtefactEntry:
    """Write what was learned, and enter it into the manifest."""
    path = zoo.root / "fits" / name / FILE
    write_bytes(path, save({key: value.detach().cpu().contiguous() for key, value in learned.items()}))
    entry = ArtefactEntry(
        name=name,
        method=method.name,
        options=method.fit_options(),
        path=f"fits/{name}",
        file=FILE,
        sha256=sha256_file(path),
        experts=experts,
        settings=settings,
        fitted_on=fitted_on,
    )
    enter(zoo, entry)
    return entry


def enter(zoo: Zoo, entry: ArtefactEntry) -> Zoo:
    """The zoo as saved with `entry` at the end, the newest, in place of one of the same name."""

    def entered(there: Manifest | None) -> Manifest:
        manifest = there or zoo.manifest
        others = tuple(old for old in manifest.artefacts if old.name != entry.name)
        return manifest.model_copy(update={"artefacts": (*others, entry)})

    return Zoo.update(zoo.root, entered)


def _experts(zoo: Zoo, tasks: Sequence[str], names: tuple[str, ...]) -> str:
    """What a fit's name says of its experts: nothing of the suite's own, `@mbc`, or their names."""
    if names == experts_for(zoo, tasks):
        return ""
    for bank in zoo.banks:
        if names == experts_for(zoo, tasks, [f"{MARK}{bank}"]):
            return f"{MARK}{bank}"
    return _short(names, "experts")


def _short(names: Sequence[str], what: str) -> str:
    """`sst2+mnli`, or of many names how many and a hash: `63+experts+1b2c3d4e`. It is part of a folder's name."""
    joined = "+".join(names)
    hashed = hashlib.sha256(joined.encode()).hexdigest()[:8]
    return joined if len(joined) <= LONGEST_NAME else f"{len(names)}+{what}+{hashed}"


def _name(method: Fitted, suite: str, experts: str) -> str:
    """`merge_sgd/mtl7`, or `merge_sgd/mtl7-scope=layer`, with the experts where they are not the suite's own."""
    told = [f"{key}={value}" for key, value in method.fit_options().items() if value != _default(method, key)]
    return "-".join(
        [f"{method.name}/{_short(suite.split('/'), 'tasks')}", *told, *([experts] if experts else [])]
    )


def _default(method: Fitted, option: str) -> Any:
    return type(method).__dataclass_fields__[option].default
