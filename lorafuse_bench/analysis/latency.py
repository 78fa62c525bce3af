"""What a zoo's adapters cost at inference: seconds per batch against the base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor

from lorafuse_bench.analysis.base import Count, Say, option
from lorafuse_bench.analysis.of_zoo import InPortions, OfZoo, PromptAnalysis, compute_of
from lorafuse_bench.analysis.prompts import padded
from lorafuse_bench.analysis.registry import register
from lorafuse_bench.analysis.study import adapter_methods
from lorafuse_bench.bench.adapters import compare, twin
from lorafuse_bench.bench.timing import machine
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion.adapters.trained import TrainedAdapter
from lorafuse_bench.fusion.base import FusionMethod, Prompts
from lorafuse_bench.fusion.papers import MOORE
from lorafuse_bench.picture import new_figure
from lorafuse_bench.runner import all_methods
from lorafuse_bench.zoo.manifest import Zoo


class LatencyResult(OfZoo):
    """Time and operations of every method, over those of the base."""

    machine: dict[str, Any] = Field(description="processor, threads and versions")
    rows: int = Field(description="rows in the batch")
    tokens: int = Field(description="tokens a row, with padding")
    portions: int = Field(description="portions the batch was computed in, one after the other")
    rounds: int = Field(description="rounds of turns")
    methods: dict[str, dict[str, float]] = Field(
        description="method to its median `seconds`, their `ratio` to the base's with its spread, the"
        " `operations_ratio` of its linear maps, and `over_operations`, the first ratio over the second"
    )


@register
@dataclass(frozen=True, kw_only=True)
class Latency(InPortions, PromptAnalysis[LatencyResult]):
    """Seconds per batch of every trained adapter against the base, in turns.

    All take turns in one process on the same weights and the same batch; ratios are formed within each round.
    A batch in portions takes the sum of their seconds.
    """

    methods: str = option(
        "all", "'all', or adapter methods separated by commas, options as name:option=value"
    )
    suites: str | None = option("csr_mtl", "suites separated by commas, or tasks by name: piqa/boolq")
    batch_size: Count = option(8, "rows in the batch, of all tasks in turn")
    rounds: Count = option(9, "rounds; every method runs once a round")

    name = "latency"
    paper = f"{MOORE}, section 4.4"

    def run(self, say: Say) -> LatencyResult:
        self.tasks()  # an unknown suite is told before anything is loaded
        size = self.portion
        trained = [m for m in all_methods(Zoo.open(self.zoo)) if isinstance(m, TrainedAdapter)]
        if not trained:
            raise LorafuseError(
                f"zoo '{self.zoo}' has no trained adapter. Train one with `lorafuse train adapter`."
            )
        fused = self.fused(())
        prompts = self.prompts(fused, self.batch_size)
        turns = zip(*([(key, row) for row in rows] for key, rows in prompts.items()), strict=False)
        rows = list(islice(chain.from_iterable(turns), self.batch_size))
        batch = padded(fused, [row for _, row in rows], [key for key, _ in rows])
        portions = batch.split(size)
        methods = trained if self.methods == "all" else adapter_methods(self.methods)
        return LatencyResult(
            **self.facts(compute_of(fused)),
            machine=machine(),
            rows=batch.input_ids.shape[0],
            tokens=batch.input_ids.shape[1],
            portions=len(portions),
            rounds=self.rounds,
            methods=_timed(fused, methods, portions, self.rounds),
        )

    def figure(self, result: LatencyResult) -> Figure:
        """Milliseconds per batch, the base as a dashed line."""
        table = dict(result.methods)
        base = table.pop("base")["seconds"]
        figure, axes = new_figure(height=1 + 0.35 * max(len(table), 1))
        axes.barh(list(table), [1e3 * row["seconds"] for row in table.values()])
        axes.axvline(1e3 * base, color="grey", linestyle="--", label="base")
        axes.set_xlabel("milliseconds per batch")
        axes.legend()
        return figure


def _timed(
    fused: FusedModel, methods: Sequence[FusionMethod], portions: Sequence[Prompts], rounds: int
) -> dict[str, dict[str, float]]:
    reads = {"base": _reader(fused, portions, [None] * len(portions))}
    for method in methods:
        other = FusedModel(twin(fused.model), fused.zoo, fused.pool)
        other.use(method)
        reads[method.label()] = _reader(other, portions, [other.select(portion) for portion in portions])
    return compare(reads, rounds)


def _reader(
    fused: FusedModel, portions: Sequence[Prompts], selected: Sequence[Tensor | None]
) -> Callable[[], None]:
    """What has the model read the portions, each under what was selected for its rows."""

    def read() -> None:
        for portion, index in zip(portions, selected, strict=True):
            fused.selection.set(index)
            fused.model(input_ids=portion.input_ids, use_cache=False)

    return read
