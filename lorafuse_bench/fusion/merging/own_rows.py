"""Merges in closed form from what each expert shows on its own rows: what it sees, or what it depends on."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion.base import option
from lorafuse_bench.fusion.fitted import FittedMerge, Fitting, Passes


@dataclass(frozen=True)
class OwnRowsMerge(FittedMerge):
    """A merge that follows from one tensor per expert and adapted map, gathered on that expert's rows under it alone.

    An interrupted fit goes on after the last expert that was done.
    """

    rows: int = option(256, "rows of each of an expert's tasks that are read")

    gathered: ClassVar[str]
    """What is gathered, in the words of progress."""

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise LorafuseError(f"method '{self.name}': rows={self.rows} must be at least 1.")

    def budget(self, experts: int) -> Passes:
        return {"rows": self.rows, "epochs": 1}

    def fit(self, fitting: Fitting) -> dict[str, Tensor]:
        pool = fitting.runtime.pool
        found = [
            fitting.kept(f"{self.gathered} of {name}", partial(self.gather, fitting, i))
            for i, name in enumerate(pool.names)
        ]
        return self.solved(pool, found)

    @abstractmethod
    def gather(self, fitting: Fitting, expert: int) -> dict[str, Tensor]:
        """By map, the tensor of one expert."""

    @abstractmethod
    def solved(self, pool: ExpertPool, found: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """What the merge is made of, from the experts' tensors in their order."""
