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


@dataclass(frozen=True)
class Took:
    """Wall and processor seconds of a command, and those until it said that its first cell begins."""

    seconds: float
    cpu_seconds: float
    first_seconds: float | None = None


def run(
    methods: str, suite: str, limit: int | None, workers: int, engine: str, rounds: int
) -> dict[str, Any]:
    """Times on `mini` of base and merges; LorafuseError where a command fails.

    Writing the merges as PEFT adapters, which only the loop needs, is not counted.
    """
    zoo, asked, chosen = Zoo.open(EMBEDDED), suite_of(suite), registry.parse_all(methods)
    cut = [] if limit is None else ["--limit", str(limit)]
    ours = ["lorafuse", "run", "--methods", methods, "--suites", suite, "--device", "cpu", *cut]
    more = ["--workers", str(workers), "--engine", engine]
    found: list[dict[str, Took]] = []
    with tempfile.TemporaryDirectory() as folder, current().step(f"grid of {len(chosen)} methods on {suite}"):
        root = Path(folder)
        models = {
            method.label(): _model(method, zoo, asked, root / f"peft{i}") for i, method in enumerate(chosen)
        }
        for turn in range(rounds):
            place = root / f"round{turn}"
            one = _timed([*ours, "--out", str(place / "one")])
            shared = _timed([*ours, "--out", str(place / "shared"), *more])
            loop = [
                _timed(_stock(given, asked, place / "stock" / label, cut)) for label, given in models.items()
            ]
            stock = Took(sum(each.seconds for each in loop), sum(each.cpu_seconds for each in loop))
            found.append({"one": one, "shared": shared, "stock": stock})
        differing = _differing(root / "round0", asked, list(models))
    return _report(found, {"methods": len(chosen), "differing": differing}, f"{workers} {engine} workers")


def _report(found: Sequence[Mapping[str, Took]], said: dict[str, Any], workers: str) -> dict[str, Any]:
    speed = statistics.median(each["stock"].seconds / each["one"].seconds for each in found)
    cpu = statistics.median(each["stock"].cpu_seconds / each["one"].cpu_seconds for each in found)
    shared = statistics.median(each["one"].seconds / each["shared"].seconds for each in found)
    first = statistics.median(each["one"].first_seconds or 0.0 for each in found)
    return {
        **said,
        "machine": machine(),
        "rounds": [{name: asdict(took) for name, took in each.items()} for each in found],
        "targets": [
            target("stock hf loop over lorafuse run", speed, at_least=5),
            target("the same in processor seconds", cpu, at_least=5),
            target("seconds to the first cell", first, at_most=6),
            target(f"one worker over {workers}", shared, at_least=1.7),
            target("share of answers that differ", said["differing"], at_most=_AGREE),
        ],
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


def _stock(given: str, suite: Suite, out: Path, cut: Sequence[str]) -> list[str]:
    rows = json.dumps({"zoo": EMBEDDED})
    words = ["lm_eval", "--model", "hf", "--model_args", f"{given},dtype=float32", "--metadata", rows]
    words += ["--tasks", suite.name, "--batch_size", "32", "--device", "cpu", *cut]
    return [*words, "--output_path", str(out), "--log_samples"]


def _timed(words: Sequence[str]) -> Took:
    """Run a command of this environment; LorafuseError with its last line where it fails."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    first, last = None, ""
    command = [str(Path(sys.executable).with_name(words[0])), *words[1:]]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            last = line.strip() or last
            if first is None and line.startswith("[1/"):
                first = time.perf_counter() - start
    if process.returncode:
        raise LorafuseError(f"bench grid: {' '.join(words[:4])} ... failed: {last}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Took(time.perf_counter() - start, cpu, first)


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
