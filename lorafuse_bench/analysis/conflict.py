"""Task conflict: how a method's mean score falls as it is trained on more and harder tasks at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from pydantic import Field

from lorafuse_bench.analysis.base import Analysis, Count, Counts, Part, Positive, Say, Seeds, option
from lorafuse_bench.analysis.curve import Curves, curve, curve_figure, of_losses
from lorafuse_bench.analysis.difficulty import difficulty
from lorafuse_bench.analysis.registry import register
from lorafuse_bench.analysis.study import RESULTS, Study, adapter_methods, complete
from lorafuse_bench.device import AUTO
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion.papers import MOORE
from lorafuse_bench.leaderboards.boards.board import Board
from lorafuse_bench.leaderboards.boards.builder import build
from lorafuse_bench.tasks.data import MINI, resolve_source
from lorafuse_bench.tasks.suites import suite as suite_of
from lorafuse_bench.training.settings import AdapterSettings


class ConflictResult(Part):
    """Each method's curve over the number of tasks."""

    suite: str = Field(description="the suite whose tasks were added one by one")
    scored: str = Field(description="what a point's score is")
    tasks: list[list[str]] = Field(description="the tasks of each number of them, fewest first")
    scores_by_task: dict[str, float] = Field(description="task to the mean over methods of its score")
    methods: Curves = Field(description="method to its points")


@register
@dataclass(frozen=True, kw_only=True)
class Conflict(Analysis[ConflictResult]):
    """Mean score against the number of tasks trained on together, easiest first.

    With `base`, adapters of every method are trained on the first K tasks, for every K and seed, and evaluated.
    Running the same command again continues where it stopped.
    """

    folder: Path = option(help="results to read; with base, where zoos and results go")
    suite: str = option("csr_mtl", "the suite whose tasks are added one by one")
    base: str | None = option(
        None, "train and evaluate what is missing, on this base: a folder, hub id, or mini"
    )
    data: str | None = option(None, "hub, mini, or a data directory")
    methods: str = option(
        "all", "'all', or adapter methods separated by commas, options as name:option=value"
    )
    counts: Counts | None = option(None, "numbers of tasks K; by default 2 to all")
    order: str | None = option(None, "the tasks, easiest first; by default by the methods' mean scores")
    seeds: Seeds = option((0,), "training seeds")
    oblivion: str | None = option(None, "evaluate this suite too, under the same adapters")
    learning_rate: Positive = option(3e-4, "learning rate between warm-up and decay")
    epochs: Positive = option(2.0, "passes over the rows")
    rows: Count | None = option(None, "training rows per task at most")
    train_batch_size: Count = option(8, "rows per training step")
    accumulation: Count = option(1, "portions a training batch is computed in, to save memory")
    gradient_checkpointing: bool = option(False, "train in less memory, for one more pass forward")
    cutoff: Count = option(512, "longest row in tokens, in evaluation too")
    batch_size: Count = option(32, "rows per batch of evaluation")
    device: str = option(AUTO, "auto, cpu, cuda, cuda:1, ...: auto is a GPU where there is one")
    dtype: str = option(AUTO, "auto, float32, bfloat16 or float16: auto is the base's own where it is fast")
    confirm_run_unsafe_code: bool = option(False, "consent to run the code that models write (or_mtl)")

    name = "conflict"
    paper = f"{MOORE}, section 4.2"

    @property
    def out(self) -> Path:
        return self.folder

    def run(self, say: Say) -> ConflictResult:
        if suite_of(self.suite).kind == "loss":  # before hours of training
            raise of_losses(self.suite)
        if self.base is not None:
            complete(self._study(self.base), say)
        results = self.folder / RESULTS if (self.folder / RESULTS).is_dir() else self.folder
        return conflict(build([results]).boards, self.suite)

    def figure(self, result: ConflictResult) -> Figure:
        return curve_figure(result.methods, result.scored)

    def _study(self, base: str) -> Study:
        return Study(
            out=self.folder,
            suite=self.suite,
            base=base,
            source=resolve_source(self.data, MINI if base == MINI else None),
            methods=adapter_methods(self.methods),
            seeds=self.seeds,
            counts=self.counts or range(2, len(suite_of(self.suite).tasks) + 1),
            settings=AdapterSettings(
                learning_rate=self.learning_rate,
                epochs=self.epochs,
                rows=self.rows,
                batch_size=self.train_batch_size,
                accumulation=self.accumulation,
                gradient_checkpointing=self.gradient_checkpointing,
                cutoff=self.cutoff,
            ),
            oblivion=self.oblivion,
            order=tuple(self.order.split(",")) if self.order else None,
            batch_size=self.batch_size,
            device=self.device,
            dtype=self.dtype,
            run_code=self.confirm_run_unsafe_code,
        )


def conflict(boards: Sequence[Board], suite: str) -> ConflictResult:
    """The curve: each method's mean raw score over the first K tasks, for every K there is a board of.

    A board counts whose suite is `suite` or some of its tasks by name (`piqa/boolq`): methods there were
    trained on just these. Mean and standard deviation over seeds.
    """
    own = sorted((b for b in boards if _belongs(b, suite)), key=lambda board: len(board.columns))
    if not own:
        raise LorafuseError(
            f"no results of adapters on {suite}. Train some with `lorafuse analyze conflict --base`."
        )
    return ConflictResult(
        suite=suite,
        scored="mean score over these tasks",
        tasks=[[column.task for column in board.columns] for board in own],
        scores_by_task=difficulty(own[-1]),
        methods=curve((len(board.columns), board) for board in own),
    )


def _belongs(board: Board, suite: str) -> bool:
    part = set(board.suite.split("/")) <= set(suite_of(suite).tasks)
    return board.oblivion and (part or board.suite == suite)
