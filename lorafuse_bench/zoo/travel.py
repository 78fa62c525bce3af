"""Zoos and adapters on the hub: a zoo put there for others, an adapter of somebody's taken into a zoo."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from lorafuse_bench import hub
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import check_links, new_folder, read_json, write_json
from lorafuse_bench.hub import Upload
from lorafuse_bench.zoo.hashes import ADAPTER_CONFIG, LORA_WEIGHTS
from lorafuse_bench.zoo.index import index_adapters
from lorafuse_bench.zoo.installed import EMBEDDED, check_own, writable
from lorafuse_bench.zoo.locate import is_hub_id
from lorafuse_bench.zoo.manifest import Zoo

CARD = "README.md"
SOURCE = "source.json"


def uploads(zoo: Zoo, repo: str) -> list[Upload]:
    """The files of a zoo as they would lie in `repo`, with a card where it has none.

    No file names a place of this machine. LorafuseError where others could not have its base or its rows.
    """
    zoo.check_whole()
    _check_places(zoo)
    files = hub.files_of(zoo.root, lambda path: _without_place(path, zoo))
    if all(file.name != CARD for file in files):
        files.append(Upload(CARD, card(zoo, repo).encode()))
    return files


def card(zoo: Zoo, repo: str) -> str:
    """What a zoo's page on the hub says."""
    manifest = zoo.manifest
    experts = "\n".join(f"| {e.name} | {', '.join(e.tasks)} | {e.sha256[:12]} |" for e in manifest.experts)
    named = f"base_model: {manifest.base.hub}\n" if manifest.base.hub else ""
    return (
        f"---\nlibrary_name: lorafuse-bench\ntags: [lora, peft, lorafuse-zoo]\n{named}---\n\n# {manifest.name}\n\n"
        f"A zoo of LoRA-Fuse Bench: {len(manifest.experts)} LoRA experts of {zoo.base_name}, seed {manifest.seed},"
        f" {manifest.init} initialisation.\n\n```bash\nlorafuse run --zoo {repo} --methods all\n```\n\n"
        f"| expert | tasks | sha256 |\n|---|---|---|\n{experts}\n"
    )


def add(
    root: Path,
    source: str,
    tasks: Sequence[str],
    name: str | None = None,
    revision: str | None = None,
    base: str | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Zoo:
    """Take an adapter, a hub id or a folder, into the zoo at `root` as an expert of `tasks`; returns the zoo.

    The expert is called `name`, by default after its first task. Where there is no zoo yet, one is made on `base`, by
    default the base that the adapter names. `report` is told what an index is. LorafuseError for an adapter that
    cannot be had or fused, or holds a link that leads out of its folder; the zoo is then as it was.
    """
    writable(root)
    expert = name or tasks[0]
    place = root / "experts" / expert
    if not expert or place.parent != root / "experts" or expert.startswith("."):
        raise LorafuseError(f"'{expert}' cannot be the name of an expert. Give a plain one with --name.")
    if place.exists():
        raise LorafuseError(f"zoo '{root}' has an expert '{expert}'. Give this one another name with --name.")
    folder = _fetched(source, revision)
    told = read_json(folder / ADAPTER_CONFIG, "Name an adapter in PEFT format.").get(
        "base_model_name_or_path"
    )
    made = not (root / "manifest.json").is_file()
    if made and base is None:
        check_own(root)
        if not told:
            raise LorafuseError(
                f"{root} is not a zoo yet, and '{source}' does not name its base. Name it with --base."
            )
        base = str(told)
        report(f"{source} names the base {base}. Nothing in it proves that.")
    elif not made and told:
        _report_other_base(Zoo.open(root), source, str(told), report)
    check_links(folder, folder.rglob("*"))
    with new_folder(place) as copy:
        shutil.copytree(folder, copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
        write_json(copy / SOURCE, {"from": source, "revision": revision, "commit": _commit(folder)})
    try:
        return index_adapters(root, base, tasks={expert: list(tasks)}, report=report)
    except BaseException:
        shutil.rmtree(place)
        raise


def _fetched(source: str, revision: str | None) -> Path:
    """The folder that holds an adapter."""
    if Path(source).is_dir():
        return Path(source)
    if not is_hub_id(source):
        raise LorafuseError(f"adapter '{source}' is neither a folder nor a hub id such as user/adapter.")
    folder = hub.fetch(source, revision, (ADAPTER_CONFIG, LORA_WEIGHTS, CARD))
    if not (folder / ADAPTER_CONFIG).is_file():
        raise LorafuseError(f"the hub's '{source}' holds no {ADAPTER_CONFIG}: it is no PEFT adapter.")
    return folder


def _commit(folder: Path) -> str | None:
    return folder.name if folder.parent.name == "snapshots" else None


def _report_other_base(zoo: Zoo, source: str, told: str, report: Callable[[str], None]) -> None:
    own = zoo.manifest.base.hub or zoo.manifest.base.path
    if is_hub_id(own) and is_hub_id(told) and own != told:
        report(f"{source} names the base {told}, the zoo's is {own}. Nothing in it proves which is right.")


def _check_places(zoo: Zoo) -> None:
    base, data = zoo.manifest.base, zoo.manifest.data
    outside = zoo.root.resolve() not in (zoo.root / base.path).resolve().parents
    if outside and base.path != EMBEDDED and not (base.hub or base.make or is_hub_id(base.path)):
        raise LorafuseError(
            f"the base of zoo '{zoo.name}' lies in {base.path}, where others cannot get it. Copy it into the zoo, or"
            f" put it on the hub; then: lorafuse zoo rebase {zoo.root} --base FOLDER_OR_HUB_ID"
        )
    if data not in ("hub", EMBEDDED) and zoo.root.resolve() not in (zoo.root / data).resolve().parents:
        raise LorafuseError(
            f"the rows of zoo '{zoo.name}' lie in {data}, where others cannot get them. If they are the hub's:"
            f" lorafuse zoo rebase {zoo.root} --data hub"
        )


def _without_place(path: Path, zoo: Zoo) -> bytes | None:
    """An adapter's configuration or a manifest that names the base by its hub id or name, not by a folder outside."""
    if path.name == ADAPTER_CONFIG:
        config = read_json(path, "Restore it.")
        base = zoo.manifest.base
        config["base_model_name_or_path"] = base.hub or (base.path if is_hub_id(base.path) else zoo.base_name)
        return json.dumps(config, indent=1, sort_keys=True).encode()
    if path == zoo.root / "manifest.json":
        return _portable(zoo)
    return None


def _portable(zoo: Zoo) -> bytes:
    """The manifest; a base outside the zoo that the hub has, or a command makes, is named after itself."""
    base = zoo.manifest.base
    if base.path != EMBEDDED and (".." in Path(base.path).parts or Path(base.path).is_absolute()):
        base = base.model_copy(update={"path": base.hub or "base", "name": zoo.base_name})
    told = zoo.manifest.model_copy(update={"base": base}).model_dump(by_alias=True, mode="json")
    return (json.dumps(told, indent=1, sort_keys=True) + "\n").encode()
