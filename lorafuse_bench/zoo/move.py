"""Zoos that move: a copy to write to, and a zoo whose base or data is now somewhere else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import check_links, new_folder, read_json, write_json
from lorafuse_bench.zoo.describe import describe_base, peft_base, portable
from lorafuse_bench.zoo.hashes import ADAPTER_CONFIG, check_files
from lorafuse_bench.zoo.installed import writable
from lorafuse_bench.zoo.manifest import Zoo

_LEFT = shutil.ignore_patterns(".*", "__pycache__", "__init__.py")


def copy_zoo(name: str, out: Path) -> Zoo:
    """Copy a zoo to the new folder `out`, where it can be written to; a base outside it is not copied.

    Raises LorafuseError when `out` is not empty, and for a link that leads out of the zoo.
    """
    zoo = Zoo.open(name)
    writable(out)
    check_links(zoo.root, zoo.root.rglob("*"))
    with new_folder(out) as folder:
        shutil.copytree(zoo.root, folder, ignore=_LEFT, dirs_exist_ok=True)
        base = zoo.manifest.base
        moved = {
            "base": base.model_copy(update={"path": _from(base.path, zoo.root, out)}),
            "data": _from(zoo.manifest.data, zoo.root, out),
        }
        Zoo(folder, zoo.manifest.model_copy(update=moved)).save()
    copied = Zoo.open(out)
    if copied.find_base().is_relative_to(out):
        _tell_peft(copied, str(copied.find_base()))
    return copied


def rebase(zoo: Zoo, base: str | None = None, data: str | None = None) -> Zoo:
    """Say where a moved zoo's base (a folder or hub id) and data are now; returns the zoo as saved.

    Raises LorafuseError when `base` is not, by hash, the one that the zoo's experts were trained on.
    """
    writable(zoo.root)
    found: dict[str, object] = {"data": portable(data, zoo.root)} if data else {}
    if base is not None:
        old = zoo.manifest.base
        new = describe_base(base, zoo.root, old)
        if new.sha256 != old.sha256:
            raise LorafuseError(
                f"{base} is not the base of zoo '{zoo.name}': sha256 {new.sha256[:12]}, expected {old.sha256[:12]}."
                " Name the model that its experts were trained on."
            )
        check_files(Path(base), new.files or {}, old.files, f"the base of zoo '{zoo.name}'")
        found["base"] = new
        _tell_peft(zoo, base)
    return Zoo.update(zoo.root, lambda there: (there or zoo.manifest).model_copy(update=found))


def _tell_peft(zoo: Zoo, base: str) -> None:
    """Write into every adapter where PEFT finds its base; the zoo's identity does not depend on it."""
    for entry in zoo.adapters():
        path = zoo.root / entry.path / ADAPTER_CONFIG
        config = read_json(path, "Restore it.")
        write_json(path, config | {"base_model_name_or_path": peft_base(base)})


def _from(path: str, root: Path, out: Path) -> str:
    """A folder outside the zoo at `root` as it is named from `out`; all else keeps its name."""
    folder = (root / path).resolve()
    if not folder.is_dir() or folder.is_relative_to(root.resolve()):
        return path
    return os.path.relpath(folder, out.resolve())
