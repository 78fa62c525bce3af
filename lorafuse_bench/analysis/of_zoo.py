"""Options and facts that analyses of a zoo share: which zoo, whose prompts, where it computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import Field

from lorafuse_bench.analysis.base import Analysis, Count, Part, option
from lorafuse_bench.analysis.prompts import evaluation_prompts, with_experts
from lorafuse_bench.device import AUTO, Compute
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.limits import portion
from lorafuse_bench.tasks.data import resolve_source
from lorafuse_bench.tasks.suites import suite as suite_of
from lorafuse_bench.zoo.manifest import EMBEDDED, Zoo
from lorafuse_bench.zoo.pools import named


class OfZoo(Part):
    """A result that tells which zoo it is of, and where it was computed."""

    zoo: str = Field(description="name of the zoo")
    zoo_sha256: str = Field(description="hash of its manifest's base, experts, routers and adapters")
    device: str = Field(description="where it was computed")
    dtype: str = Field(description="in which type")


R = TypeVar("R", bound=OfZoo)


@dataclass(frozen=True, kw_only=True)
class ZooAnalysis(Analysis[R]):
    """An analysis of a zoo."""

    zoo: str = option(EMBEDDED, "a zoo: its folder, or its name where it is installed")
    device: str = option(AUTO, "auto, cpu, cuda, cuda:1, ...: auto is a GPU where there is one")

    def facts(self, compute: Compute) -> dict[str, Any]:
        """The fields of `OfZoo`."""
        opened = Zoo.open(self.zoo)
        return {"zoo": opened.name, "zoo_sha256": opened.sha256(), **compute.record()}


@dataclass(frozen=True, kw_only=True)
class OfExperts:
    """An analysis that compares experts."""

    experts: str | None = option(None, "experts by name, separated by commas; by default all")

    @property
    def names(self) -> tuple[str, ...] | None:
        """The experts chosen; None for all."""
        return None if self.experts is None else tuple(name.strip() for name in self.experts.split(","))


@dataclass(frozen=True, kw_only=True)
class InPortions:
    """An analysis whose model reads `batch_size` rows at a time, at once or in equal portions."""

    batch_size: Count
    accumulation: Count = option(1, "portions a batch is computed in, to save memory")

    @property
    def portion(self) -> int:
        """Rows of a portion; LorafuseError where a batch does not divide."""
        return portion(self.batch_size, self.accumulation)


@dataclass(frozen=True, kw_only=True)
class ModelAnalysis(ZooAnalysis[R]):
    """An analysis of a zoo's model."""

    dtype: str = option(AUTO, "auto, float32, bfloat16 or float16: auto is the base's own where it is fast")

    def fused(self, names: tuple[str, ...] | None = None) -> FusedModel:
        """The zoo's base with its experts, or with those named; `()` is none."""
        return with_experts(Zoo.open(self.zoo), self.device, self.dtype, names)


@dataclass(frozen=True, kw_only=True)
class PromptAnalysis(ModelAnalysis[R]):
    """An analysis of what a zoo's model does with the prompts of tasks."""

    suites: str | None = option(
        None, "suites separated by commas, or tasks by name: piqa/boolq; by default the experts' tasks"
    )
    data: str | None = option(None, "hub, mini, or a data directory; by default the zoo's")
    cutoff: Count | None = option(None, "longest prompt in tokens; by default the zoo's own length")

    def tasks(self) -> list[str]:
        """The tasks of all suites, each once."""
        if self.suites is None:
            entries = named(Zoo.open(self.zoo), self.names if isinstance(self, OfExperts) else None)
            return list(dict.fromkeys(task for entry in entries for task in entry.tasks))
        return list(
            dict.fromkeys(key for name in self.suites.split(",") for key in suite_of(name.strip()).tasks)
        )

    def prompts(self, fused: FusedModel, samples: int) -> dict[str, list[list[int]]]:
        """Task key to token ids of its first `samples` prompts, as evaluation asks them."""
        return evaluation_prompts(
            fused, self.tasks(), resolve_source(self.data, self.zoo), samples, self.cutoff
        )


def compute_of(fused: FusedModel) -> Compute:
    """Where a loaded model computes, and in which type."""
    return Compute(fused.model.device, fused.model.dtype)
