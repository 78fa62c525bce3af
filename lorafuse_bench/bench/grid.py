"""A grid of methods by one `lorafuse run`, against a shell loop of stock `lm_eval --model hf`, one command a method."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lorafuse_bench.bench.timing import machine, target
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.export import export_merge
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.base import FusionMethod
from lorafuse_bench.leaderboards.results import cell_files
from lorafuse_bench.leaderboards.results.samples import read_samples
from lorafuse_bench.progress import current
from lorafuse_bench.tasks.facts import Suite
from lorafuse_bench.tasks.suites import suite as suite_of
from lorafuse_bench.zoo.manifest import EMBEDDED, Zoo
from lorafuse_bench.zoo.pools import experts_for

_AGREE = 0.02
"""No more answers of both sides should differ: a merge that is added up elsewhere may turn one or two."""
_LONGEST = 1_000_000
"""Tokens, in effect the base's own length: stock lm-eval does not know the zoo's, and would read longer prompts."""


@dataclass(frozen=True)
class Asked:
    """What both sides are asked, and how many workers of which engines are compared with one; `loop`: the loop too."""

    methods: str
    suite: str = "mtl7"
    limit: int | None = None
    zoo: str = EMBEDDED
    data: str | None = None
    batch_size: int = 32
    workers: int = 2
    engines: Sequence[str] = ("local",)
    rounds: int = 1
    loop: bool = True

    @property
    def cut(self) -> list[str]:
        """Options of both commands for the number of rows."""
        return [] if self.limit is None else ["--limit", str(self.limit)]

    def ours(self, methods: str, suite: str, cut: Sequence[str], out: Path) -> list[str]:
        """The command `lorafuse run`."""
        words = ["lorafuse", "run", "--methods", methods, "--suites", suite, "--zoo", self.zoo, *cut]
        words += ["--data", self.data] if self.data else []
        words += ["--batch-size", str(self.batch_size), "--dtype", "float32", "--device", "cpu"]
        return [*words, "--max-length", str(_LONGEST), "--out", str(out)]

    def stock(self, model_args: str, out: Path) -> list[str]:
        """The command `lm_eval --model hf`, on the same rows."""
        rows = json.dumps({"zoo": self.zoo} | ({"data": self.data} if self.data else {}))
        words = ["lm_eval", "--model", "hf", "--model_args", f"{model_args},dtype=float32"]
        words += ["--metadata", rows, "--tasks", self.suite, "--batch_size", str(self.batch_size)]
        words += ["--device", "cpu", *self.cut]
        return [*words, "--output_path", str(out), "--log_samples"]


@dataclass(frozen=True)
class Took:
    """Wall and processor seconds of commands."""

    seconds: float
    cpu_seconds: float


def run(asked: Asked) -> dict[str, Any]:
    """Times of base and merges; LorafuseError where a command fails.

    Writing the merges as PEFT adapters, which only the loop needs, is not counted.
    """
    zoo, suite, chosen = Zoo.open(asked.zoo), suite_of(asked.suite), registry.parse_all(asked.methods)
    with tempfile.TemporaryDirectory() as folder:
        models = {
            method.label(): _model(method, zoo, suite, Path(folder) / f"peft{i}")
            for i, method in enumerate(chosen if asked.loop else ())
        }
        places = [Path(folder) / f"round{turn}" for turn in range(asked.rounds)]
        found = [_round(asked, suite, models, place) for place in places]
        differing = _differing(places[0], suite, list(models))
    return _report(found, differing, asked)


def _round(asked: Asked, suite: Suite, models: Mapping[str, str], place: Path) -> dict[str, Took]:
    """Every alternative once: a run of one item, one of all, the same by workers, and the loop if `models` has any."""
    # The base's own answers may run to the longest length; an expert's end.
    first = asked.ours("oracle", next(iter(suite.tasks)), ["--limit", "1"], place / "first")
    whole = {
        name: asked.ours(asked.methods, asked.suite, asked.cut, place / name)
        for name in ("one", *asked.engines)
    }
    took = {"first": _timed(first), "one": _timed(whole["one"])}
    for engine in asked.engines:
        took[engine] = _timed([*whole[engine], "--workers", str(asked.workers), "--engine", engine])
    loop = [_timed(asked.stock(given, place / "stock" / label)) for label, given in models.items()]
    if loop:
        took["stock"] = Took(sum(each.seconds for each in loop), sum(each.cpu_seconds for each in loop))
    return took


def _report(found: Sequence[Mapping[str, Took]], differing: float, asked: Asked) -> dict[str, Any]:
    def ratio(slow: str, fast: str, unit: str = "seconds") -> float:
        return statistics.median(getattr(took[slow], unit) / getattr(took[fast], unit) for took in found)

    shared = [
        target(f"one worker over {asked.workers} {engine} workers", ratio("one", engine), at_least=1.7)
        for engine in asked.engines
    ]
    first = statistics.median(took["first"].seconds for took in found)
    targets = [target("seconds of a run of one item", first, at_most=6), *shared]
    if asked.loop:
        targets += [
            target("stock hf loop over lorafuse run", ratio("stock", "one"), at_least=5),
            target("the same in processor seconds", ratio("stock", "one", "cpu_seconds"), at_least=5),
            target("share of answers that differ", differing, at_most=_AGREE),
        ]
    return {
        "asked": asdict(asked),
        "differing": differing,
        "machine": machine(),
        "rounds": [{name: asdict(took) for name, took in each.items()} for each in found],
        "targets": targets,
    }


def _model(method: FusionMethod, zoo: Zoo, suite: Suite, out: Path) -> str:
    """What stock lm-eval's hf model is told for a method: the base, and an adapter in PEFT's form."""
    base = f"pretrained={zoo.base_folder()}"
    if not method.fuses_experts:
        return base
    exported = export_merge(method, zoo, out, experts_for(zoo, tuple(suite.tasks)))
    if exported.kind != "adapter":
        raise LorafuseError(
            f"bench grid: '{method.label()}' is no adapter in PEFT's form. Name other --methods."
        )
    return f"{base},peft={out}"


def _timed(words: Sequence[str]) -> Took:
    """Run a command of this environment; LorafuseError with its last line where it fails."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [str(Path(sys.executable).with_name(words[0])), *words[1:]]
    with current().step(" ".join(words[:4])):
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        last = (done.stderr.strip() or "no word said").splitlines()[-1]
        raise LorafuseError(f"bench grid: {' '.join(words[:4])} ... failed: {last}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Took(time.perf_counter() - start, cpu)


def _differing(place: Path, suite: Suite, labels: Sequence[str]) -> float:
    """Share of written answers that differ, ours ended where stock lm-eval stops: at a stop before any text too."""
    ours: dict[tuple[str, str, int], str | None] = {}
    for path in (place / "one").glob("*/*/*.json"):
        label = cell_files.read_result(path).method.label
        ours |= {(label, suite.tasks[row.task].task, row.doc_id): row.output for row in read_samples(path)}
    differ = []
    for label in labels:
        for file in (place / "stock" / label).rglob("samples_*.jsonl"):
            task = file.name.removeprefix("samples_").rpartition("_")[0]
            for line in file.read_text().splitlines():
                row = json.loads(line)
                until = row["arguments"]["gen_args_0"]["arg_1"]
                if isinstance(until, dict):
                    answer = ours[label, task, row["doc_id"]] or ""
                    for stop in until["until"]:
                        answer = answer.partition(stop)[0]
                    differ.append(answer != row["filtered_resps"][0])
    return statistics.mean(differ) if differ else 0.0
