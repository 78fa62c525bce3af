"""Mistakes of methods that are fitted; each is LoRA Soups but for one thing."""

from __future__ import annotations

from typing import Any

import torch
from mistakes import SOUND, Body, method, mistake
from torch import Tensor

from lorafuse_bench.fusion.base import static_updates
from lorafuse_bench.fusion.fitted import Fitting
from lorafuse_bench.fusion.merging.lora_soups import LoraSoups
from lorafuse_bench.tasks.rows import load_task, rendered
from lorafuse_bench.tasks.suites import task as task_of


def moved(how: Any) -> Body:
    """A `fit` that adds `how(fitting)` to the weights that were learned."""

    def fit(self: Any, fitting: Fitting) -> dict[str, Tensor]:
        return {"weights": LoraSoups.fit(self, fitting)["weights"] + how(fitting)}

    return {"fit": fit}


def fitted(what: str, by: str, body: Body, options: dict[str, int] | None = None) -> None:
    mistake(what, by, LoraSoups, options, **body)


def evaluated(fitting: Any) -> float:
    """A number that the rows of the evaluated split decide."""
    source = fitting.runtime.zoo.data_source
    found = load_task(task_of("sst2").task, source)
    return sum(len(row.prompt) for row in rendered(found, found.config.validation_split, 4)) / 1000


ended: list[None] = []


def grown(fitting: Fitting) -> float:
    """Another number in every fit of the process."""
    ended.append(None)
    return len(ended) / 10


def warm(self: Any, fitting: Fitting) -> dict[str, Tensor]:
    """Two descents; the second starts where a list that only this process knows says."""
    known: list[Tensor] = []

    def updates(parameters: Any) -> Any:
        known.append(parameters["weights"].detach().clone())
        return static_updates(self.merged(fitting.runtime.pool, parameters))

    start = self.start(fitting.runtime)
    fitting.descend(start, updates, (0.1,), part="first")
    second = {"weights": start["weights"] + 0.1 * len(known)}
    return fitting.descend(second, updates, (0.1,), part="second")


SOUND.append(method(LoraSoups, {}))
fitted(
    "a fit drawn from torch's global generator",
    "fits_twice_to_the_same_bytes",
    moved(lambda fitting: torch.rand(()) / 10),
)
fitted("a fit that goes on from the last one", "fits_twice_to_the_same_bytes", moved(grown))
fitted(
    "what it counted before it was stopped is lost", "a_stopped_fit_goes_on_to_the_same_bytes", {"fit": warm}
)
fitted(
    "dev rows learned from",
    "a_fit_reads_no_dev_rows",
    moved(lambda fitting: fitting.losses().losses.mean() / 10),
)
fitted("evaluated rows learned from", "a_fit_reads_no_evaluated_rows", moved(evaluated))
fitted(
    "weights of experts in another order served",
    "stale_fits_are_refused",
    {**moved(lambda fitting: torch.arange(3.0)), "serves": lambda self, fitted, used: True},
)


def scaled(self: Any, fitting: Fitting) -> dict[str, Tensor]:
    return {"weights": LoraSoups.fit(self, fitting)["weights"] * self.times}


fitted(
    "an option that shapes the fit said to matter in use alone",
    "options_at_use_shape_no_fit",
    {"fit": scaled, "at_use": frozenset({"times"})},
    {"times": 1},
)
