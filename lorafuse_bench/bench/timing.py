"""Paired timings: alternatives take turns in one process, and ratios are formed within each round."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lorafuse_bench.progress import current


@dataclass(frozen=True)
class Timings:
    """Seconds per call of each alternative, one entry a round."""

    seconds: Mapping[str, Sequence[float]]

    def median(self, name: str) -> float:
        """Median seconds per call."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, to: str) -> float:
        """Median over rounds of `name`'s time over `to`'s: what slows a whole round cancels."""
        return statistics.median(self._ratios(name, to))

    def quartiles(self, name: str, to: str) -> tuple[float, float]:
        """First and third quartile of the rounds' ratios; both the one ratio when there is one round."""
        ratios = self._ratios(name, to)
        if len(ratios) == 1:
            return ratios[0], ratios[0]
        first, _, third = statistics.quantiles(ratios, n=4, method="inclusive")
        return first, third

    def against(self, to: str) -> dict[str, dict[str, float]]:
        """For each alternative: its median seconds, and its ratio to `to` with quartiles."""
        table = {}
        for name in self.seconds:
            low, high = self.quartiles(name, to)
            table[name] = {
                "seconds": self.median(name),
                "ratio": self.ratio(name, to),
                "ratio_low": low,
                "ratio_high": high,
            }
        return table

    def _ratios(self, name: str, to: str) -> list[float]:
        return [a / b for a, b in zip(self.seconds[name], self.seconds[to], strict=True)]


def paired(
    alternatives: Mapping[str, Callable[[], Any]],
    rounds: int,
    repeats: int = 1,
    warmup: int = 1,
) -> Timings:
    """Time every alternative once a round, in an order that reverses from round to round.

    A time is that of `repeats` calls over `repeats`; `warmup` calls of each come first.
    """
    names, seconds = list(alternatives), {name: list[float]() for name in alternatives}
    watcher = current()
    with (
        watcher.step(f"timing {', '.join(names)}"),
        watcher.bar((warmup + rounds) * len(names), "runs") as part,
    ):
        for turn in range(warmup + rounds):
            for name in names:
                if turn < warmup:
                    alternatives[name]()
                else:
                    seconds[name].append(_timed(alternatives[name], repeats))
                part.update()
            if turn >= warmup:
                names.reverse()
    return Timings(seconds)


def _timed(call: Callable[[], Any], repeats: int) -> float:
    _wait()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    _wait()
    return (time.perf_counter() - start) / repeats


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine() -> dict[str, Any]:
    """Where and with what was measured: processor, cores, threads, load, versions."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "lm_eval")},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (x.partition(":")[2].strip() for x in lines if x.startswith("model name")), platform.machine()
    )


def target(
    what: str, value: float, at_least: float | None = None, at_most: float | None = None
) -> dict[str, Any]:
    """One line of the report: a measured value, the bound set for it, and whether it is met."""
    met = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
    return {"what": what, "value": value, "at_least": at_least, "at_most": at_most, "met": met}
