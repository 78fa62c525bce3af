"""What a router loses where it may mix fewer experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from matplotlib.figure import Figure
from pydantic import Field

from lorafuse_bench.analysis.base import Count, Counts, Part, Say, option
from lorafuse_bench.analysis.of_zoo import OfExperts, OfZoo, PromptAnalysis, compute_of
from lorafuse_bench.analysis.registry import register
from lorafuse_bench.analysis.row_losses import evaluated_rows, nats_and_tokens
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.base import FusionMethod
from lorafuse_bench.fusion.papers import TRADEOFFS
from lorafuse_bench.leaderboards.statistics import stats
from lorafuse_bench.picture import new_figure
from lorafuse_bench.tasks.data import resolve_source
from lorafuse_bench.training.examples import Example

DEFAULT = "arrow:merge=before,routing_sgd,hc"


class Gap(Part):
    """One method; losses in nats per token, means over tasks."""

    losses: dict[int, float] = Field(description="experts mixed to the loss")
    gap: float = Field(description="the loss with the fewest experts minus that with the most")
    se_items: float | None = Field(
        description="its standard error over rows, paired; None for one row a task"
    )
    se_tasks: float | None = Field(description="its standard error over tasks, sd/sqrt(T); None for one task")
    tasks: dict[str, float] = Field(description="task to its gap")


class CalibrationResult(OfZoo):
    """The gap of every method."""

    samples: int = Field(description="evaluated rows per task, at most")
    tasks: list[str] = Field(description="the tasks whose rows they are")
    methods: dict[str, Gap] = Field(description="method, without its k, to its losses")


@register
@dataclass(frozen=True, kw_only=True)
class Calibration(OfExperts, PromptAnalysis[CalibrationResult]):
    """What methods that route tokens lose by mixing one expert instead of four: loss(top 1) − loss(top 4).

    Well calibrated is a small gap: the weights are right for any number of experts. Nats per target token of the
    evaluated rows, mean over tasks. Methods that the zoo has no fit of are left out where none are named.
    """

    methods: str | None = option(None, f"methods with an option k; by default those of {DEFAULT} there are")
    k: Counts = option(
        (1, 4), "experts mixed, separated by commas; the gap is between the least and the most"
    )
    samples: Count = option(100, "evaluated rows per task")

    name = "calibration"
    paper = f"{TRADEOFFS}, appendix B.4"

    def run(self, say: Say) -> CalibrationResult:
        tasks, counts = self.tasks(), sorted(set(self.k))
        if len(counts) < 2:
            raise LorafuseError(
                f"--k {counts[0]} is one number of experts, where a gap is between two: --k 1,4."
            )
        methods = [_with_k(method) for method in registry.parse_all(self.methods or DEFAULT)]
        fused = self.fused(self.names)
        fused.pool.required_by("analysis 'calibration'")
        rows = evaluated_rows(fused, tasks, resolve_source(self.data, self.zoo), self.samples)
        found = {}
        for method in methods:
            variants = {k: registry.create(method.name, method.options() | {"k": k}) for k in counts}
            if self.methods is None and (missing := _unfitted(fused, method)):
                say(f"{method.label()}: left out, {missing}")
                continue
            say(method.label())
            found[method.label()] = gap(fused, variants, rows)
        return CalibrationResult(
            **self.facts(compute_of(fused)), samples=self.samples, tasks=tasks, methods=found
        )

    def figure(self, result: CalibrationResult) -> Figure:
        """The loss against the number of experts, a line a method."""
        figure, axes = new_figure()
        for label, entry in result.methods.items():
            shown = f"{label}: {entry.gap:+.3f}"
            axes.plot(list(entry.losses), list(entry.losses.values()), marker="o", label=shown)
        axes.set_xticks(sorted({k for entry in result.methods.values() for k in entry.losses}))
        axes.set_xlabel("experts mixed per token")
        axes.set_ylabel("nats per token")
        axes.legend(title="the fewest minus the most")
        return figure


def gap(
    fused: FusedModel, variants: Mapping[int, FusionMethod], rows: Mapping[str, Sequence[Example]]
) -> Gap:
    """The losses of one method with so many experts mixed, on the rows of each task."""
    tables = {}
    for k, method in variants.items():
        fused.use(method)
        tables[k] = [stats.statistic(nats_and_tokens(fused, own).numpy()) for own in rows.values()]
    pairs = zip(tables[min(tables)], tables[max(tables)], strict=True)
    differences = [stats.paired_difference(few, many) for few, many in pairs]
    found, values = stats.mean_of(differences), [one.value for one in differences]
    return Gap(
        losses={k: fmean(one.value for one in each) for k, each in tables.items()},
        gap=found.value,
        se_items=found.se,
        se_tasks=stdev(values) / len(values) ** 0.5 if len(values) > 1 else None,
        tasks=dict(zip(rows, values, strict=True)),
    )


def _with_k(method: FusionMethod) -> FusionMethod:
    if "k" not in method.option_names():
        raise LorafuseError(
            f"method '{method.name}' has no option k, how many experts are mixed. Name one that has, such as arrow."
        )
    return method


def _unfitted(fused: FusedModel, method: FusionMethod) -> str | None:
    """Why there is no fit of a method, None where it needs none or there is one."""
    try:
        if "fit" in method.needed:
            fused.artefact(method)
    except LorafuseError as error:
        return str(error)
    return None
