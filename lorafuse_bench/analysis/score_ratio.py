"""How near the own expert's score is to the best one's, against the experts' rank."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import fmean

from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor

from lorafuse_bench.analysis.base import Count, Counts, Part, Say, option
from lorafuse_bench.analysis.expert_scores import mean_over_tokens
from lorafuse_bench.analysis.of_zoo import OfExperts, OfZoo, PromptAnalysis, compute_of
from lorafuse_bench.analysis.registry import register
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.papers import SPECTR
from lorafuse_bench.fusion.routing.gates import expert_svd
from lorafuse_bench.picture import new_figure


class Ratios(Part):
    """One method at one rank."""

    tasks: dict[str, float] = Field(description="task to its ratio, the mean over tokens and layers")
    mean: float = Field(description="the mean over tasks")


class ScoreRatioResult(OfZoo):
    """The ratio of every method at every rank."""

    samples: int = Field(description="evaluated prompts per task, at most")
    rank: int = Field(description="the experts' largest rank; larger ones were left out")
    methods: dict[str, dict[int, Ratios]] = Field(description="method to rank to its ratios")


@register
@dataclass(frozen=True, kw_only=True)
class ScoreRatio(OfExperts, PromptAnalysis[ScoreRatioResult]):
    """The own expert's score over the largest, `s_own / max_j s_j`, of experts truncated to several ranks.

    The mean over all tokens of a task's prompts, over layers, then over tasks; 1 is perfect routing. Truncated is
    the best approximation of `s B A` of rank k, by SVD; the paper trains experts of each rank instead. Hidden
    states are the routed model's own. Truncation leaves Arrow's prototypes as they are: only its hidden states
    change.
    """

    methods: str = option("arrow,spectr,spectr:score=subspace", "methods that score experts token by token")
    ranks: Counts = option((1, 2, 4, 8, 16), "ranks, separated by commas")
    samples: Count = option(100, "evaluated prompts per task")

    name = "score-ratio"
    paper = f"{SPECTR}, Figure 6"

    def run(self, say: Say) -> ScoreRatioResult:
        self.tasks()  # an unknown suite is told before anything is loaded
        methods = registry.parse_all(self.methods)
        fused = self.fused(self.names)
        whole = fused.pool.required_by("analysis 'score-ratio'")
        full = max(max(stack.ranks) for stack in whole.modules.values())
        ranks = [rank for rank in self.ranks if rank <= full]
        if not ranks:
            raise LorafuseError(
                f"the experts of zoo '{self.zoo}' have rank {full}. Ask for ranks up to that."
            )
        prompts = self.prompts(fused, self.samples)
        found: dict[str, dict[int, Ratios]] = {method.label(): {} for method in methods}
        for rank in ranks:
            say(f"rank {rank}")
            fused = FusedModel.of(fused, truncated(whole, rank))
            for method in methods:
                fused.use(method)
                means = mean_over_tokens(fused, prompts, ratio)
                tasks = {task: table.mean().item() for task, table in means.items()}
                found[method.label()][rank] = Ratios(tasks=tasks, mean=fmean(tasks.values()))
        return ScoreRatioResult(
            **self.facts(compute_of(fused)), samples=self.samples, rank=full, methods=found
        )

    def figure(self, result: ScoreRatioResult) -> Figure:
        """The mean ratio against rank, a line a method."""
        figure, axes = new_figure()
        for label, by_rank in result.methods.items():
            axes.plot(list(by_rank), [entry.mean for entry in by_rank.values()], marker="o", label=label)
        ranks = sorted({rank for by_rank in result.methods.values() for rank in by_rank})
        axes.set_xscale("log", base=2)
        axes.set_xticks(ranks, [str(rank) for rank in ranks])
        axes.set_xlabel("rank that the experts were truncated to")
        axes.set_ylabel("own score over the largest")
        axes.legend()
        axes.grid(alpha=0.3)
        return figure


def ratio(scores: Tensor, own: int) -> Tensor:
    """`(tokens, 1)`: `s_own / max_j s_j` of scores `(tokens, N)`; 0 where the own expert does not adapt the layer.

    1 where all scores are 0, which no expert leads.
    """
    best = scores.max(-1, keepdim=True).values
    part = scores[:, own : own + 1].clamp(min=0)
    return (part / best).where(best > 0, 1.0)


def truncated(pool: ExpertPool, rank: int) -> ExpertPool:
    """The pool's experts, each update in its best approximation of that rank; smaller ranks stay."""
    svd = {module: expert_svd(stack) for module, stack in pool.modules.items()}
    experts = []
    for i, expert in enumerate(pool.experts):
        factors = {}
        for module in expert.factors:
            u, s, vt = (part[i] for part in svd[module])
            k = min(rank, pool.modules[module].ranks[i])
            factors[module] = (vt[:k], u[:, :k] * s[:k])
        scaling = dict.fromkeys(factors, 1.0)
        experts.append(replace(expert, rank=min(rank, expert.rank), factors=factors, scaling=scaling))
    return ExpertPool(experts)
