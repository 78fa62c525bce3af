"""Which expert a method sees in which token of one prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from pydantic import Field
from torch import Tensor

from lorafuse_bench.analysis.base import Say, option
from lorafuse_bench.analysis.expert_scores import scores_of
from lorafuse_bench.analysis.of_zoo import ModelAnalysis, OfExperts, OfZoo, compute_of
from lorafuse_bench.analysis.prompts import evaluation_prompts
from lorafuse_bench.analysis.registry import register
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.papers import SPECTR
from lorafuse_bench.loading import load_tokenizer
from lorafuse_bench.picture import new_grid
from lorafuse_bench.tasks.data import resolve_source

WIDTH = 100
"""Characters in a line of the picture."""


class TokenRoutingResult(OfZoo):
    """The share of every expert at every token of one prompt."""

    method: str = Field(description="the method that scored")
    task: str = Field(description="whose prompt it is")
    tokens: list[str] = Field(description="the prompt's tokens as text")
    experts: list[str] = Field(description="columns of the shares")
    shares: list[list[float]] = Field(
        description="tokens by experts: the scores over their sum, the mean over layers"
    )


@register
@dataclass(frozen=True, kw_only=True)
class TokenRouting(OfExperts, ModelAnalysis[TokenRoutingResult]):
    """One prompt, its tokens shaded by every expert's score, averaged over layers.

    At each token and layer the scores are divided by their sum, so that a layer with long inputs counts no more than
    the others (the paper does not say how it averages); an expert that does not adapt a layer has 0 there.
    """

    method: str = option("spectr", "a method that scores experts token by token")
    task: str | None = option(None, "whose prompt is read; by default the first expert's")
    document: Annotated[int, Field(ge=0)] = option(0, "the prompt's place among the task's")
    data: str | None = option(None, "hub, mini, or a data directory; by default the zoo's")

    name = "token-routing"
    paper = f"{SPECTR}, Figure 4"

    def run(self, say: Say) -> TokenRoutingResult:
        method = registry.parse(self.method)
        fused = self.fused(self.names)
        pool = fused.pool.required_by("analysis 'token-routing'")
        task = self.task or pool.experts[0].tasks[0]
        pool.index_of_task(task)
        source = resolve_source(self.data, self.zoo)
        rows = evaluation_prompts(fused, [task], source, self.document + 1)[task]
        if len(rows) <= self.document:
            raise LorafuseError(
                f"task '{task}' has {len(rows)} prompts. Ask for document 0 to {len(rows) - 1}."
            )
        fused.use(method)
        scores = shares(scores_of(fused, task, rows[self.document])).mean(0)
        tokenizer: Any = load_tokenizer(str(fused.zoo.base_folder()))
        return TokenRoutingResult(
            **self.facts(compute_of(fused)),
            method=method.label(),
            task=task,
            tokens=[tokenizer.decode([token]) for token in rows[self.document]],
            experts=list(pool.names),
            shares=scores.tolist(),
        )

    def figure(self, result: TokenRoutingResult) -> Figure:
        """A panel an expert: the prompt's text, darker where its share is larger."""
        lines = list(_lines(result.tokens))
        columns = 2
        rows = -(-len(result.experts) // columns)
        figure = new_grid(rows, columns, width=11, height=rows * (0.5 + 0.17 * len(lines)))
        largest = max(max(row) for row in result.shares)
        for place, (expert, axes) in enumerate(zip(result.experts, figure.axes, strict=False)):
            axes.set_title(expert, fontsize="small", loc="left")
            _write(axes, lines, [row[place] / largest for row in result.shares])
        for axes in figure.axes:
            axes.axis("off")
        return figure


def shares(scores: Tensor) -> Tensor:
    """Scores `(..., N)` over their sum; equal shares where all are 0."""
    known = scores.clamp(min=0)
    total = known.sum(-1, keepdim=True)
    return (known / total).where(total > 0, 1 / scores.shape[-1])


def _lines(tokens: Sequence[str]) -> Iterator[list[tuple[int, str]]]:
    """(Place, text) of the tokens, in lines of at most `WIDTH` characters."""
    line: list[tuple[int, str]] = []
    for place, token in enumerate(tokens):
        text = token.replace("\n", "⏎") or " "
        if line and sum(len(t) for _, t in line) + len(text) > WIDTH:
            yield line
            line = []
        line.append((place, text))
    yield line


def _write(axes: Axes, lines: Sequence[Sequence[tuple[int, str]]], shade: Sequence[float]) -> None:
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(len(lines), 0)
    for row, line in enumerate(lines):
        at = 0
        for place, text in line:
            axes.add_patch(Rectangle((at, row), len(text), 1, color="tab:purple", alpha=shade[place], lw=0))
            for step, letter in enumerate(text):
                axes.text(
                    at + step + 0.5,
                    row + 0.5,
                    letter.replace("$", r"\$"),
                    fontsize=6,
                    ha="center",
                    va="center",
                )
            at += len(text)
