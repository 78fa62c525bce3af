"""Throughput and latency of serving methods, on vLLM and on transformers: `lorafuse bench serve`."""

from __future__ import annotations

import json
import os
import random
import statistics
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lorafuse_bench.bench.backends import BACKENDS, Backend, Request, start
from lorafuse_bench.bench.timing import machine, target
from lorafuse_bench.errors import LorafuseError, unknown
from lorafuse_bench.files import read_json, write_json
from lorafuse_bench.fusion import registry
from lorafuse_bench.leaderboards.results import cell_files
from lorafuse_bench.serving import how_served
from lorafuse_bench.tasks.data import resolve_source
from lorafuse_bench.tasks.loading import load_tasks
from lorafuse_bench.tasks.suites import suite
from lorafuse_bench.zoo.manifest import Zoo

SCHEMA = "lorafuse.bench.serve/1"
Mix = Literal["uniform", "zipf", "single"]
MIXES: tuple[Mix, ...] = ("uniform", "zipf", "single")


@dataclass(frozen=True)
class Load:
    """What is asked of every backend: so many prompts of a suite's tasks, each continued by so many tokens.

    `uniform` draws tasks alike, `zipf` the k-th in the suite's order with weight 1/k, `single` only the first.
    """

    zoo: str = "mini"
    suite: str = "mtl7"
    requests: int = 128
    new_tokens: int = 32
    rounds: int = 3
    dtype: str = "float32"
    seed: int = 0


def run(
    load: Load,
    backends: Sequence[str] = BACKENDS,
    methods: Sequence[str] = ("base", "oracle", "moa", "svd", "concat"),
    mixes: Sequence[str] = ("uniform",),
    concurrency: Sequence[int] = (1, 8, 32),
    out: Path | None = None,
    report: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Measure every backend and method under every mix and concurrency; fields as in docs/serve.md.

    Each finished measurement is written to `out`; those that `out` holds of the same load are kept. Methods
    that cannot be served as one adapter a sequence are refused, and `peft` takes part where rows differ.
    """
    _check(backends, methods, mixes)
    kept = _kept(out, load)
    requests = {mix: _requests(load, mix) for mix in mixes}
    for backend in backends:
        for spec in methods:
            if backend == "peft" and how_served(registry.parse(spec)) != "adapters":
                continue
            wanted = [(mix, n) for mix in mixes for n in concurrency]
            missing = [pair for pair in wanted if not _has(kept, backend, spec, *pair)]
            if not missing:
                report(f"{backend} {spec}: kept")
                continue
            report(f"{backend} {spec}: starting")
            with closing(
                start(backend, spec, load.zoo, tuple(suite(load.suite).tasks), load.dtype)
            ) as server:
                server.answer(requests[mixes[0]][:16], min(concurrency), 4)  # kernels and adapters, once
                for mix, n in missing:
                    point = _measure(server, requests[mix], load, n)
                    kept.append({"backend": backend, "method": spec, "mix": mix, "concurrency": n} | point)
                    report(f"{backend} {spec} {mix} x{n}: {point['tokens_per_second']:.0f} tokens/s")
                    if out is not None:
                        write_json(out, _result(load, kept))
    return _result(load, kept)


def _measure(server: Backend, requests: Sequence[Request], load: Load, concurrency: int) -> dict[str, Any]:
    """Medians over rounds of rates, and latencies of all rounds together."""
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    runs = [server.answer(requests, concurrency, load.new_tokens) for _ in range(load.rounds)]
    tokens = load.new_tokens * len(requests)
    for each in runs:
        if any(len(arrivals) != load.new_tokens for arrivals in each.arrivals):
            raise LorafuseError("bench serve: a backend did not write as many tokens as asked. Report this.")
    first = [arrivals[0] for each in runs for arrivals in each.arrivals]
    between = [gap for each in runs for arrivals in each.arrivals for gap in np.diff(arrivals).tolist()]
    rates = [tokens / each.total_seconds for each in runs]
    return {
        "how": server.how,
        "tokens_per_second": statistics.median(rates),
        "tokens_per_second_low": min(rates),
        "tokens_per_second_high": max(rates),
        "requests_per_second": statistics.median(len(requests) / each.total_seconds for each in runs),
        "route_seconds": statistics.median(each.route_seconds for each in runs),
        "first_token_seconds": _percentiles(first),
        "between_tokens_seconds": _percentiles(between),
        "adapters_resident": server.adapters,
        "peak_bytes": server.peak_bytes(),
        "start_seconds": server.start_seconds,
        "load_average": busy,
    }


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    return {f"p{q}": float(np.percentile(values, q)) for q in (50, 95, 99)}


def _requests(load: Load, mix: str) -> list[Request]:
    """Prompts of the suite's tasks, in the form that lm-eval gives them."""
    asked = suite(load.suite)
    keys = list(asked.tasks)
    tasks = load_tasks(asked, resolve_source(None, load.zoo))
    weights = {"uniform": [1.0] * len(keys), "zipf": [1 / k for k in range(1, len(keys) + 1)]}
    weights["single"] = [1.0] + [0.0] * (len(keys) - 1)
    draw = random.Random(load.seed)
    chosen = draw.choices(keys, weights[mix], k=load.requests)
    made = []
    for key in chosen:
        task = tasks[asked.tasks[key].task]
        docs = task.eval_docs
        made.append(Request(key, str(task.doc_to_text(docs[draw.randrange(len(docs))]))))
    return made


def _check(backends: Sequence[str], methods: Sequence[str], mixes: Sequence[str]) -> None:
    for name in backends:
        if name not in BACKENDS:
            raise unknown("backend", name, BACKENDS)
    for mix in mixes:
        if mix not in MIXES:
            raise unknown("mix", mix, MIXES)
    for spec in methods:
        how_served(registry.parse(spec))
    if "vllm" in backends:
        from lorafuse_bench.model_wrappers.engine import require_vllm

        require_vllm()


def _kept(out: Path | None, load: Load) -> list[dict[str, Any]]:
    """Measurements of the same load that the file holds."""
    if out is None or not out.exists():
        return []
    try:
        found = json.loads(out.read_text())
        same = found["schema"] == SCHEMA and found["load"] == asdict(load)
        points: list[dict[str, Any]] = found["points"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LorafuseError(
            f"{out} was not written by `lorafuse bench serve` ({error}). Name another --out."
        ) from error
    if not same:
        raise LorafuseError(f"{out} was measured under another load. Name another --out, or remove the file.")
    return points


def _has(points: Sequence[dict[str, Any]], backend: str, method: str, mix: str, concurrency: int) -> bool:
    return find(points, backend, method, mix, concurrency) is not None


def find(
    points: Sequence[dict[str, Any]], backend: str, method: str, mix: str, concurrency: int
) -> dict[str, Any] | None:
    """The measurement of one backend, method, mix and concurrency."""
    wanted = {"backend": backend, "method": method, "mix": mix, "concurrency": concurrency}
    return next((point for point in points if wanted.items() <= point.items()), None)


def _result(load: Load, points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "machine": machine(),
        "load": asdict(load),
        "points": list(points),
        "targets": _comparisons(points),
    }


def _comparisons(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Who should be at least as fast as whom, at every mix and concurrency where both were measured."""
    pairs = [
        ("oracle: ours / PEFT's mixed batch", ("hf", "oracle"), ("peft", "oracle")),
        ("oracle: vLLM / ours", ("vllm", "oracle"), ("hf", "oracle")),
        ("vLLM: svd / oracle", ("vllm", "svd"), ("vllm", "oracle")),
    ]
    lines = []
    for mix, n in sorted({(point["mix"], point["concurrency"]) for point in points}):
        for what, above, below in pairs:
            a, b = find(points, *above, mix, n), find(points, *below, mix, n)
            if a and b:
                ratio = a["tokens_per_second"] / b["tokens_per_second"]
                lines.append(target(f"{what}, {mix}, {n} at a time", ratio, at_least=1.0))
    return lines


def enter(result: dict[str, Any], folder: Path) -> list[Path]:
    """Enter what vLLM was measured at into the cost of the results below `folder`; the files that changed.

    A cell of the same zoo and method gets the seconds per 1,000 tokens at the first mix and the largest
    concurrency. LorafuseError where no cell fits.
    """
    sha256 = Zoo.open(result["load"]["zoo"]).sha256()
    best: dict[str, dict[str, Any]] = {}
    for point in result["points"]:
        if point["backend"] == "vllm" and point["mix"] == result["points"][0]["mix"]:
            label = registry.parse(point["method"]).label()
            if label not in best or best[label]["concurrency"] < point["concurrency"]:
                best[label] = point
    changed = []
    for path in sorted(folder.rglob("*.json")):
        if read_json(path, "Remove it.").get("schema") not in cell_files.READABLE:
            continue
        cell = cell_files.read_result(path)
        if cell.zoo.sha256 == sha256 and cell.method.label in best:
            seconds = 1000 / best[cell.method.label]["tokens_per_second"]
            cost = cell.cost.model_copy(update={"served_seconds_per_1000_tokens": seconds})
            write_json(path, cell.model_copy(update={"cost": cost}).content())
            changed.append(path)
    if not changed:
        raise LorafuseError(
            f"{folder} has no result of this zoo and these methods ({', '.join(sorted(best)) or 'none by vllm'})."
            " Give the folder of `lorafuse run`."
        )
    return changed
