"""One row of the table of damaged inputs: an input, a command, and the one line that it must end in."""

from __future__ import annotations

import json
import re
import resource
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import add_router, tiny_zoo
from torch import Tensor
from toy_cells import write
from typer.testing import CliRunner

from lorafuse_bench.cli import app
from lorafuse_bench.files import sha256_file
from lorafuse_bench.zoo.manifest import Zoo

CPU_SECONDS = 5
"""What a refusal may compute, packages being imported. Waiting for ever is what the tests' timeout ends."""
_PROGRESS = re.compile(r"^\[\d+/\d+\] |: step \d+/\d+, |estimated from sizes$|it/s\]")
"""Lines that say how far a command is and what it takes; lm-eval's bars, which only a process of its own can end."""


@dataclass(frozen=True)
class Work:
    """Where a row does its damage: a zoo of two experts and a router, rows for it, results of three methods."""

    root: Path

    @property
    def zoo(self) -> Path:
        return self.root / "zoo"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def results(self) -> Path:
        return self.root / "results"

    @property
    def manifest(self) -> Path:
        return self.zoo / "manifest.json"

    @property
    def expert(self) -> Path:
        return self.zoo / "experts" / "sst2"

    def json(self, path: Path, **changes: Any) -> None:
        """Change fields of a JSON file."""
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    def entry(self, part: str, **changes: Any) -> None:
        """Change the manifest's first entry of experts, artefacts, ..., or its only one."""
        manifest = json.loads(self.manifest.read_text())
        entry = manifest[part][0] if isinstance(manifest[part], list) else manifest[part]
        entry.update(changes)
        self.manifest.write_text(json.dumps(manifest))

    def tensors(self, change: Callable[[dict[str, Tensor]], object]) -> None:
        """Change the first expert's tensors, and the manifest's hash with them."""
        path = self.expert / "adapter_model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)
        self.entry("experts", sha256=sha256_file(path))


Harm = Callable[[Work], object]


@dataclass(frozen=True)
class Row:
    """`harm` is done to a whole `Work`; `command` (its words in braces are the work's paths) then says `message`."""

    name: str
    command: str
    message: str
    harm: Harm = field(default=lambda work: None)
    environment: Mapping[str, str] = field(default_factory=dict)


def make_work(root: Path, data: Path) -> Work:
    """A whole one, to be copied."""
    zoo = add_router(tiny_zoo(root / "zoo", experts=2))
    Zoo(zoo.root, zoo.manifest.model_copy(update={"data": "../data"})).save()
    shutil.copytree(data, root / "data")
    for label in ("base", "oracle", "svd"):
        scores = [0.0, 1.0, 0.0, 1.0] if label == "base" else [1.0, 1.0, 0.0, 1.0]
        write(root / "results", label, {"toy": scores * 8})
    return Work(root)


def check(row: Row, whole: Work, root: Path) -> None:
    """Copy the whole work, damage it, run the command: exit code 2, one line with the message, no traceback."""
    work = Work(root / "work")
    shutil.copytree(whole.root, work.root)
    row.harm(work)
    places = {name: str(getattr(work, name)) for name in ("zoo", "data", "results", "expert", "root")}
    start = computed()
    done = CliRunner().invoke(app, shlex.split(row.command.format(**places)), env=dict(row.environment))
    seconds = computed() - start
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        pytest.fail(f"{type(done.exception).__name__}: {done.exception}"[:500])
    lines = [line for line in done.stderr.splitlines() if line.strip() and not _PROGRESS.search(line)]
    assert done.exit_code == 2, f"exit code {done.exit_code}: {done.output[-500:]}"
    assert len(lines) == 1, done.stderr[-1000:]
    assert row.message.format(**places) in lines[0], lines[0]
    assert seconds < CPU_SECONDS


def computed() -> float:
    """Processor seconds of this process and of those it started and that have ended."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def in_type(name: str) -> Callable[[dict[str, Tensor]], None]:
    """Give every tensor the type called `name`."""

    def change(tensors: dict[str, Tensor]) -> None:
        for key in tensors:
            tensors[key] = tensors[key].to(getattr(torch, name))

    return change
