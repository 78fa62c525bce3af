"""What a zoo's folder says of its trained experts, and the manifest made from it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import check_free, read_json
from lorafuse_bench.loading import load_config, positions_of
from lorafuse_bench.tasks.rows import Rendered, training_rows
from lorafuse_bench.training.examples import hold_out
from lorafuse_bench.training.settings import ExpertSettings
from lorafuse_bench.zoo.describe import describe_expert, keeping
from lorafuse_bench.zoo.entries import Bank, BaseEntry, check_name
from lorafuse_bench.zoo.manifest import (
    EMBEDDED,
    ExpertEntry,
    Manifest,
    Zoo,
    embedded_root,
    local_model,
    weights_sha256,
)

RECORD = "training.json"
ROWS = "rows_sha256"
"""Task to the hash of the rows that were learned; older records have none."""
AGAIN = "Use another --out, or delete that folder to train it again."


@dataclass(frozen=True)
class Wanted:
    """One expert to train: its name, the tasks whose rows it learns from, and its bank."""

    name: str
    tasks: tuple[str, ...]
    bank: Bank = "private"

    @classmethod
    def private(cls, task: str) -> Wanted:
        """A task's own expert, which has its name."""
        return cls(task, (task,))


@dataclass(frozen=True)
class Recipe:
    """What all experts of one call have in common; `described` is the base, hashed once."""

    base: str
    described: BaseEntry
    out: Path
    source: str
    settings: ExpertSettings
    _hashed: dict[str, dict[str, Any]] = field(default_factory=dict, compare=False)

    @property
    def model(self) -> str:
        """The base's local folder."""
        return str(local_model(Path(self.base), self.base))

    def rows(self, task: str) -> Rendered:
        """A task's rows, with those that are held out."""
        return training_rows(task, self.source, limit=self.settings.rows)

    def identity(self, wanted: Wanted) -> dict[str, Any]:
        """What makes a trained expert this one: a run that differs in any of it is another expert.

        LorafuseError when the expert is finished, and its rows changed since.
        """
        if wanted.name not in self._hashed:  # reading rows takes long
            folder = self.folder(wanted)
            record = read_record(folder) if (folder / RECORD).is_file() else None
            self._hashed[wanted.name] = rows_sha256(folder, record, partial(self._hashes, wanted))
        return self._told(wanted) | self._hashed[wanted.name]

    def _hashes(self, wanted: Wanted) -> dict[str, str]:
        rows = {task: self.rows(task) for task in wanted.tasks}
        return {task: own.sha256(len(hold_out(own, self.settings.held_out)[0])) for task, own in rows.items()}

    def _told(self, wanted: Wanted) -> dict[str, Any]:
        """The identity as far as the command tells it."""
        return {
            "tasks": list(wanted.tasks),
            "bank": wanted.bank,
            "base_sha256": self.described.sha256,
            "source": portable_source(self.source, self.out),
            "settings": plain(self.settings),
        }

    def folder(self, wanted: Wanted) -> Path:
        """Where the finished expert is."""
        return self.out / "experts" / wanted.name

    def work(self, wanted: Wanted) -> Path:
        """Where its checkpoints lie."""
        return work_folder(self.out, wanted.name, self.identity(wanted))

    def is_finished(self, wanted: Wanted) -> bool:
        """Whether the zoo holds this expert; LorafuseError when its folder holds anything else."""
        folder = self.folder(wanted)
        if not (folder / RECORD).is_file():
            check_free(folder)
            return False
        record = read_record(folder)
        check_same(folder, record, self._told(wanted))
        self.identity(wanted)
        return True

    def enter(self, name: str | None) -> Zoo:
        """Write every finished expert of the folder into the zoo's manifest, and keep what else that says."""
        records = {
            path.parent.name: read_record(path.parent) for path in self.out.glob(f"experts/*/{RECORD}")
        }

        def entered(there: Manifest | None) -> Manifest:
            old = {entry.name: entry for entry in there.experts} if there else {}
            new = {key: _entry(self.out, key, record) for key, record in records.items()}
            inits = {self.settings.init, there.init if there and old else self.settings.init}
            found: dict[str, Any] = {
                "base": self._base(there),
                "experts": tuple(entry for _, entry in sorted((old | new).items())),
                "seed": self.settings.seed,
                "init": "shared" if inits == {"shared"} else "independent",
                "data": portable_source(self.source, self.out),
                "max_length": self.settings.cutoff,
                "training": {**(there.training if there else {}), "experts": records},
            }
            if there:
                return there.model_copy(update=found | ({"name": name} if name else {}))
            return Manifest(name=name or zoo_name(self.out), **found)

        return Zoo.update(self.out, entered)

    def _base(self, there: Manifest | None) -> BaseEntry:
        """The manifest's own description where it leads to this base, else ours."""
        if there and there.base.sha256 == self.described.sha256 and Zoo(self.out, there).has_base:
            return there.base.model_copy(update={"files": self.described.files})
        return keeping(self.described, there.base if there else None)


def read_record(folder: Path) -> dict[str, Any]:
    """What is recorded of the expert in a folder; what is younger than the record had its default then."""
    record = read_json(folder / RECORD, AGAIN)
    tasks = record.get("tasks") or [record["task"]]
    rows = record.get("rows_of_task") or {tasks[0]: record["rows"]}
    settings = plain(ExpertSettings()) | record["settings"]
    return {"bank": "private", **record, "tasks": tasks, "rows_of_task": rows, "settings": settings}


def check_same(folder: Path, record: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """LorafuseError when what is finished in `folder` was trained with anything else than is asked for."""
    for name, value in asked.items():
        if record.get(name) != value:
            raise LorafuseError(f"{folder} was trained with another {name} than asked for now. {AGAIN}")


def rows_sha256(
    folder: Path, record: Mapping[str, Any] | None, hashes: Callable[[], dict[str, str]]
) -> dict[str, Any]:
    """What an identity says of the rows: ROWS, and nothing where the record of what is finished has none.

    LorafuseError when what is finished in `folder` learned others than `hashes` gives.
    """
    if record is not None and ROWS not in record:
        return {}
    now = hashes()
    was = now if record is None else record[ROWS]
    changed = [task for task in now if not isinstance(was, dict) or was.get(task) != now[task]]
    if changed:
        raise LorafuseError(
            f"{folder} was trained on other rows of {', '.join(changed)} than are there now: the data, or how its task"
            f" asks, was edited since. {AGAIN}"
        )
    return {ROWS: now}


def _entry(out: Path, name: str, record: Mapping[str, Any]) -> ExpertEntry:
    entry = describe_expert(out, f"experts/{name}", name, record["tasks"], record["base_sha256"])
    return entry.model_copy(update={"bank": record["bank"], "rows": record["rows_of_task"]})


def plain(settings: ExpertSettings) -> dict[str, Any]:
    """Settings as JSON has them."""
    return {**asdict(settings), "targets": list(settings.targets)}


def work_folder(out: Path, name: str, identity: Mapping[str, Any]) -> Path:
    """Where a run keeps its checkpoints: another run of the same name has another folder."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return out / ".training" / f"{name}-{digest[:16]}"


def check_length(out: Path, cutoff: int) -> None:
    """LorafuseError when the zoo at `out` is of rows of another length, or where there is none, cannot be named so."""
    if (out / "manifest.json").is_file():
        with_length(Zoo.open(out).manifest, cutoff)
    else:
        zoo_name(out)


def zoo_name(out: Path) -> str:
    """What a new zoo at `out` is called: as its folder."""
    return check_name(out.resolve().name, "the zoo's folder")


def check_positions(folder: str | Path, cutoff: int) -> None:
    """LorafuseError where rows of `cutoff` tokens are longer than the base in `folder` reads."""
    most = positions_of(load_config(folder))
    if most is not None and cutoff > most:
        raise LorafuseError(
            f"the base in {folder} reads at most {most} tokens, not {cutoff}. Use --cutoff {most}."
        )


def with_length(manifest: Manifest, cutoff: int | None) -> Manifest:
    """The manifest with `cutoff`, where it is given, as its length; LorafuseError when it has another."""
    if cutoff is None:
        return manifest
    if manifest.max_length not in (None, cutoff):
        raise LorafuseError(
            f"zoo '{manifest.name}' is of rows of at most {manifest.max_length} tokens, not {cutoff}."
            f" Use --cutoff {manifest.max_length}, or another --out."
        )
    return manifest.model_copy(update={"max_length": cutoff})


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
