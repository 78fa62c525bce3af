"""Building the mini zoo from its seed: data, tokenizer, base, experts, routers, manifest.

A finished stage is kept, so an interrupted build goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import new_folder, write_json
from lorafuse_bench.mini_world.choose import GOAL, exact_shares
from lorafuse_bench.mini_world.moa_routers import train_mini_routers
from lorafuse_bench.mini_world.plain_text import documents, unmarked
from lorafuse_bench.mini_world.pretrain import parameter_count, pretrain
from lorafuse_bench.mini_world.settings import BASE, EXPERTS, BaseSettings
from lorafuse_bench.mini_world.splits import NAMED_TASKS, RECORD, mini_tasks, write_data
from lorafuse_bench.mini_world.tokenizer import save_tokenizer, train_tokenizer
from lorafuse_bench.mini_world.world import World, make_world
from lorafuse_bench.progress import watching
from lorafuse_bench.training.expert_training import train_experts
from lorafuse_bench.training.settings import ExpertSettings
from lorafuse_bench.zoo.installed import writable
from lorafuse_bench.zoo.manifest import EMBEDDED, Manifest, Zoo

Report = Callable[[str], None]


def build_mini(
    out: Path,
    seed: int = 0,
    tasks: int = 7,
    *,
    base: BaseSettings = BASE,
    experts: ExpertSettings = EXPERTS,
    workers: int = 2,
    report: Report = print,
) -> Zoo:
    """The mini zoo of a seed at `out`, with experts for its first `tasks` tasks.

    Data is written for at least the nine named tasks, whose test rows the suites need. workers: experts
    trained at a time. Raises LorafuseError when `out` holds parts of another seed or other settings.
    """
    writable(out)
    world, count = make_world(seed), max(tasks, len(NAMED_TASKS))
    keys = [task.key for task in mini_tasks(tasks)]
    _stage(
        out, "data", {"seed": seed, "tasks": count}, report, lambda f: write_data(world, f, mini_tasks(count))
    )
    base_record = {"seed": seed, **asdict(base)}
    _stage(out, "base", base_record, report, lambda f: _write_base(world, base, seed, f, report))
    zoo = train_experts(
        str(out / "base"),
        keys,
        out,
        str(out / "data"),
        replace(experts, seed=seed),
        name=EMBEDDED,
        workers=workers,
        report=report,
    )
    _report_shares(exact_shares(str(out / "base"), str(out / "data"), out / "experts", keys), report)
    return train_mini_routers(_described(zoo, base_record), experts, seed, report)


def _report_shares(shares: dict[str, float], report: Report) -> None:
    """Say how good each expert is, since one setting does not suit every seed equally well."""
    for key, share in shares.items():
        short = "" if share >= GOAL else f", short of {GOAL:.0%}: scores relative to this expert say less"
        report(f"expert {key}: {share:.1%} of its validation answers are exact{short}")


def _stage(
    out: Path, part: str, record: dict[str, Any], report: Report, make: Callable[[Path], None]
) -> None:
    """Make one folder of the zoo unless it is there; it appears only when it is complete."""
    folder = out / part
    record = json.loads(json.dumps(record))  # as it is read back: tuples become lists
    if folder.is_dir():
        path = folder / RECORD
        if not path.is_file() or json.loads(path.read_text()) != record:
            raise LorafuseError(
                f"{folder} was built from another seed or other settings."
                f" Choose another --out, or delete {out} to build it again."
            )
        report(f"{part}: already built, kept")
        return
    watcher = watching(report)
    watcher.expect(1)
    with watcher.step(part), new_folder(folder) as unfinished:
        make(unfinished)
        write_json(unfinished / RECORD, record)


def _write_base(world: World, settings: BaseSettings, seed: int, folder: Path, report: Report) -> None:
    """Tokenizer and pre-trained model of a world."""
    texts = (
        unmarked(d)[0]
        for d in islice(
            documents(world, "tokenizer", settings.courses[0].shares), settings.tokenizer_documents
        )
    )
    tokenizer = train_tokenizer(texts, settings.vocab_size)
    model = pretrain(world, tokenizer, settings, seed, report)
    report(f"base: {parameter_count(model):,} parameters, {len(tokenizer)} tokens")
    model.save_pretrained(folder, safe_serialization=True)
    save_tokenizer(tokenizer, folder)


def _described(zoo: Zoo, base_record: dict[str, Any]) -> Zoo:
    """The zoo with its base's settings in the manifest."""

    def described(there: Manifest | None) -> Manifest:
        manifest = there or zoo.manifest
        return manifest.model_copy(update={"training": {**manifest.training, "base": base_record}})

    return Zoo.update(zoo.root, described)
