"""A zoo on disk: one base model, its LoRA experts and what was learned on them, where its data comes from."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import write_json
from lorafuse_bench.locks import LOCK, held
from lorafuse_bench.tables import Table, cell
from lorafuse_bench.zoo.entries import (
    AdapterEntry,
    ArtefactEntry,
    Bank,
    BaseEntry,
    ExpertEntry,
    Manifest,
    read_manifest,
)
from lorafuse_bench.zoo.hashes import (
    LORA_WEIGHTS,
    adapter_files,
    base_files,
    check_files,
    check_weights,
    weights_sha256,
)
from lorafuse_bench.zoo.installed import EMBEDDED, embedded_root, installed_root, writable
from lorafuse_bench.zoo.locate import cached_base, download, hub_zoo, is_hub_id, local_model

__all__ = [
    "EMBEDDED",
    "AdapterEntry",
    "ArtefactEntry",
    "BaseEntry",
    "ExpertEntry",
    "Manifest",
    "Zoo",
    "embedded_root",
    "local_model",
    "weights_sha256",
]

_BESIDE_THE_POINT: Any = {
    "base": {"path", "revision", "name", "hub", "make", "files"},
    "data": True,
    "training": True,
    "adapters": {"__all__": {"settings"}},
    "experts": {"__all__": {"files", "rows"}},
    "artefacts": {"__all__": {"options": True, "file": True, "adapters": {"__all__": {"files", "rows"}}}},
}


class Zoo:
    """A zoo directory opened for reading.

    `Zoo.open("mini")` is the embedded zoo; any other name is a directory with a manifest.json, a zoo that an
    installed package brings, or a hub repository: `owner/name`, or `owner/name@revision`.
    """

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.root = root
        self.manifest = manifest

    @classmethod
    def open(cls, name: str | Path = EMBEDDED) -> Zoo:
        """Read a zoo's manifest; LorafuseError when the directory or the manifest is not right."""
        root = Path(name)
        try:
            if str(name) == EMBEDDED or not root.is_dir():
                root = installed_root(str(name)) or root
            there = (root / "manifest.json").is_file()
        except OSError as error:  # a name longer than the file system takes
            raise LorafuseError(
                f"zoo '{str(name)[:60]}...': {error.strerror}. Name a zoo directory."
            ) from error
        if there:
            return cls(root, read_manifest(root / "manifest.json"))
        not_there = f"zoo '{name}' not found: no {root / 'manifest.json'}."
        if not root.is_dir() and (found := _from_hub(str(name), not_there)):
            return found
        raise LorafuseError(
            f"{not_there} Name a zoo directory, or '{EMBEDDED}' for the embedded one; `lorafuse train` makes one,"
            " `lorafuse zoo index` describes existing PEFT adapters."
        )

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def banks(self) -> tuple[Bank, ...]:
        """The banks that hold experts, private ones first."""
        there = {entry.bank for entry in self.manifest.experts}
        return tuple(bank for bank in get_args(Bank) if bank in there)

    @property
    def has_base(self) -> bool:
        """Whether a folder of this machine, where the manifest or the cache has it, holds the base."""
        return any(folder.is_dir() for folder in self._base_folders())

    @property
    def hub_id(self) -> str | None:
        """The hub's name of the base, where no folder of this machine holds it."""
        base = self.manifest.base
        if self.has_base:
            return None
        return base.hub or (base.path if is_hub_id(base.path) else None)

    @property
    def base_name(self) -> str:
        """What people call the base: its own name, its hub id, or its folder's; never a path."""
        base, folder = self.manifest.base, (self.root / self.manifest.base.path).resolve()
        if base.name or base.hub or self.hub_id:
            return base.name or base.hub or base.path
        return self.name if self.root.resolve() in folder.parents else folder.name

    def find_base(self) -> Path:
        """Local folder of the base, unchecked: the manifest's, the cache's, or the hub's.

        Raises LorafuseError with what makes the base when it is not in these places.
        """
        base, places = self.manifest.base, self._base_folders()
        for folder in places:
            if folder.is_dir():
                return folder
        if self.hub_id is not None:
            return download(self.hub_id, base.revision)
        rebase = f"lorafuse zoo rebase {shlex.quote(str(self.root))} --base FOLDER"
        repair = f"Make it: {base.make}" if base.make else f"Say where it is: {rebase}"
        raise LorafuseError(
            f"zoo '{self.name}': its base '{self.base_name}' is not in"
            f" {' or '.join(str(folder) for folder in places)}. {repair}"
        )

    def _base_folders(self) -> tuple[Path, ...]:
        base = self.manifest.base
        own = embedded_root() / "base" if base.path == EMBEDDED else self.root / base.path
        return own, cached_base(base.sha256)

    def base_folder(self) -> Path:
        """`find_base`, with the hashes of its weights and of all else that is read of it checked."""
        base, folder = self.manifest.base, self.find_base()
        if weights_sha256(folder) != base.sha256:
            raise LorafuseError(
                f"the base of zoo '{self.name}' in {folder} is not the one its experts were trained on:"
                f" sha256 {weights_sha256(folder)[:12]}, expected {base.sha256[:12]}. Restore it, or rebuild the zoo."
            )
        check_weights(folder)
        check_files(folder, base_files(folder), base.files, f"the base of zoo '{self.name}'")
        return folder

    def missing(self) -> list[str]:
        """What the manifest names and is not there, each with its place and its repair; nothing is hashed."""
        lines = []
        if self.hub_id is None:
            try:
                self.find_base()
            except LorafuseError as error:
                lines.append(str(error))
        parts = [(entry.kind, entry.name, entry.path, entry.file) for entry in self.manifest.artefacts]
        parts += [
            ("adapter", entry.name, entry.path, "adapter.safetensors") for entry in self.manifest.adapters
        ]
        parts += [("expert", entry.name, entry.path, LORA_WEIGHTS) for entry in self.adapters()]
        for kind, name, path, file in parts:
            if not (self.root / path / file).is_file():
                lines.append(f"{kind} '{name}': no {self.root / path / file}. Restore it, or train it again.")
        return lines

    def check_whole(self) -> Zoo:
        """This zoo; LorafuseError with a line for each part that is missing."""
        if missing := self.missing():
            raise LorafuseError(*missing)
        return self

    @property
    def data_source(self) -> str:
        """Where this zoo's data comes from: `hub`, `mini`, or a directory."""
        source = self.manifest.data
        return source if source in ("hub", EMBEDDED) else str((self.root / source).resolve())

    def save(self) -> None:
        """Write manifest.json; LorafuseError where the zoo belongs to an installed package."""
        writable(self.root)
        write_json(self.root / "manifest.json", self.manifest.model_dump(by_alias=True, mode="json"))

    @classmethod
    def update(cls, root: Path, change: Callable[[Manifest | None], Manifest]) -> Zoo:
        """Write what `change` makes of the manifest in `root`, None where there is none, and return the zoo.

        It is read, changed and written while no other process or thread does so: two trainings into one zoo
        lose nothing of each other's.
        """
        writable(root)
        root.mkdir(parents=True, exist_ok=True)
        path = root / "manifest.json"
        with held(root / f".{path.name}{LOCK}", wait=True):
            zoo = cls(root, change(read_manifest(path) if path.is_file() else None))
            zoo.save()
        return zoo

    def sha256(self) -> str:
        """sha256 over everything that scores depend on, wherever it is stored.

        That is what the manifest says, without places and the records of training, and the hashes of the
        files that are read beside the weights, recorded or not. Moving a zoo leaves it as it is, and so do
        fits, which results name by their own hashes.
        """
        said = self.manifest.model_dump(
            by_alias=True, mode="json", exclude_defaults=True, exclude=_BESIDE_THE_POINT
        )
        routers = [entry for entry in said.pop("artefacts", ()) if "fitted_on" not in entry]
        said |= {"routers": routers} if routers else {}
        read = {"base": base_files(self.find_base())}
        read |= {entry.path: adapter_files(self.root / entry.path) for entry in self.adapters()}
        return hashlib.sha256(json.dumps([said, read], sort_keys=True).encode()).hexdigest()

    def adapters(self) -> Iterator[ExpertEntry]:
        """Every LoRA adapter: the experts, and those trained jointly with routers."""
        yield from self.manifest.experts
        for artefact in self.manifest.artefacts:
            yield from artefact.adapters

    def table(self) -> Table:
        """Its experts, routers and adapters, one a line."""
        manifest = self.manifest
        parts: list[tuple[object, ...]] = [
            ("expert" if e.bank == "private" else f"expert @{e.bank}", e.name, e.tasks, e.sha256, "", "")
            for e in sorted(manifest.experts, key=lambda e: self.banks.index(e.bank))
        ]
        for entry in manifest.artefacts:
            accuracy = entry.settings.get("accuracy")
            shown = accuracy if isinstance(accuracy, float) else ""
            parts.append((entry.kind, entry.name, entry.experts, entry.sha256, shown, ""))
        parts += [
            ("adapter", adapter.name, adapter.tasks, adapter.sha256, "", adapter.parameters)
            for adapter in manifest.adapters
        ]
        return Table(
            headings=("kind", "name", "task", "sha256", "accuracy", "parameters"),
            rows=[
                [cell(value)[:12] if i == 3 else cell(value) for i, value in enumerate(part)]
                for part in parts
            ],
            title=f"zoo {manifest.name}, seed {manifest.seed}: base {self.base_name}"
            f" ({manifest.base.sha256[:12]}), data {manifest.data}, {manifest.init} initialisation",
            notes=manifest.clusters.lines if manifest.clusters else (),
            words=range(4),
        )

    def __repr__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return self.table()._repr_html_()


def _from_hub(name: str, not_there: str) -> Zoo | None:
    """The zoo that the hub has under `name`, None where that is not a hub id; LorafuseError where it is not to be had.

    Its base must come with it or from the hub: nothing else of this machine is read for a stranger's zoo.
    """
    try:
        root = hub_zoo(name)
    except LorafuseError as error:
        raise LorafuseError(f"{not_there} {error}") from error
    if root is None:
        return None
    if not (root / "manifest.json").is_file():
        raise LorafuseError(f"{not_there} The hub's '{name}' holds no manifest.json: it is not a zoo.")
    zoo = Zoo(root, read_manifest(root / "manifest.json"))
    for place in (zoo.manifest.base.path, zoo.manifest.data):
        if Path(place).is_absolute() or ".." in Path(place).parts:
            raise LorafuseError(
                f"zoo '{name}' of the hub names '{place[:80]}', outside itself. It is not opened."
            )
    return zoo
