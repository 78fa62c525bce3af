"""The loss matrix of a zoo's experts, kept in the zoo like everything learned on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lorafuse_bench import artefacts
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion.base import Runtime
from lorafuse_bench.fusion.fitted import Fitted, Fitting, LossMatrix
from lorafuse_bench.layers import Update
from lorafuse_bench.zoo.manifest import Zoo

LOSSES = "losses"


@dataclass(frozen=True)
class Losses(Fitted):
    """What every expert alone loses on the dev rows of every task, for analyses and for linear programs."""

    name = LOSSES
    family = "reference"
    paper = "-"

    def fit(self, fitting: Fitting) -> dict[str, Tensor]:
        found = fitting.losses()
        return {"nats": found.nats, "tokens": found.tokens, "standard_errors": found.standard_errors}

    def updates(self, runtime: Runtime) -> Mapping[str, Update]:
        raise TypeError("a loss matrix is nothing to fuse by")


def read_losses(zoo: Zoo, pool: ExpertPool, suite: str | None = None) -> LossMatrix:
    """The zoo's loss matrix of these experts, on `suite` where it has several.

    LorafuseError with the command that makes it where there is none, or where experts or base changed since.
    """
    method = Losses(fitted_on=suite)
    entry = artefacts.entry_of(zoo, method, pool)
    learned = artefacts.load(zoo, entry)
    assert entry.fitted_on is not None
    return LossMatrix(entry.experts, entry.fitted_on.tasks, **learned.tensors)
