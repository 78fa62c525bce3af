"""One fit on its way: the rows, the experts on the model, and a training loop, kept as they are made."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from lorafuse_bench.device import Compute
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import read_json, write_bytes, write_json
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion.base import FusionMethod, Runtime, row_updates
from lorafuse_bench.fusion.fitted import (
    MAP_RATES,
    WEIGHT_RATES,
    Fitted,
    LossMatrix,
    MakeUpdates,
    Parameters,
    expert_alone,
)
from lorafuse_bench.fusion.routing.clusters import clusters_of
from lorafuse_bench.fusion.routing.moa import Pool
from lorafuse_bench.layers import Update
from lorafuse_bench.limits import COUNT, POSITIVE, SEED, Limit
from lorafuse_bench.loading import load_tokenizer
from lorafuse_bench.tasks.rows import Row
from lorafuse_bench.training.descent import (
    CachedBatches,
    Distance,
    Entropy,
    LanguageLoss,
    Mixture,
    Objective,
    collate_scores,
    mean_entropy,
)
from lorafuse_bench.training.examples import Batches, Example, Head, PadRight, pad_token, prompt_of, tokenize
from lorafuse_bench.training.fit_rows import DEV, FitRows
from lorafuse_bench.training.kept_fits import kept_fit
from lorafuse_bench.training.loop import Progress, Report, isolated_randomness, train
from lorafuse_bench.training.loss_matrix import Losses
from lorafuse_bench.training.router_training import RouterSettings, learn_routers, length_of
from lorafuse_bench.training.settings import Limited, Schedule
from lorafuse_bench.training.token_scores import (
    TokenScores,
    estimate_of,
    kept_scores,
    loss_matrix,
    score_experts,
    score_rows,
)
from lorafuse_bench.training.visits import SeeGradients, SeeInputs, visit_gradients, visit_inputs
from lorafuse_bench.zoo.entries import FittedOn

FILE = "learned.safetensors"


@dataclass(frozen=True)
class FitSettings(Limited):
    """How a fit learns; all of it is recorded in the manifest."""

    limits: ClassVar[dict[str, Limit]] = {
        "epochs": POSITIVE,
        "steps": COUNT,
        "batch_size": COUNT,
        "rows": COUNT,
        "dev": COUNT,
        "seed": SEED,
    }

    epochs: float = 5.0
    """Passes over the fit rows."""
    steps: int | None = None
    """Optimiser steps at most; None for as many as the epochs take."""
    rates: tuple[float, ...] | None = None
    """Learning rates to choose among on dev rows; None for the method's own."""
    batch_size: int = 8
    rows: int | None = None
    """Rows per task to learn on at most."""
    dev: int = DEV
    """Last training rows per task kept to choose by, at most a fifth of them."""
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rates is not None and not all(0 < rate < math.inf for rate in self.rates):
            raise LorafuseError("learning rates must be finite numbers above 0. Change --lrs.")


class FitRun:
    """One fit on its way: what a method asks for (`fusion.fitted.Fitting`), kept in `work` as it is made."""

    def __init__(
        self,
        fused: FusedModel,
        tasks: tuple[str, ...],
        rows: Sequence[FitRows],
        settings: FitSettings,
        work: Path,
        name: str,
        report: Report,
        fitted_on: FittedOn | None = None,
    ) -> None:
        """`fitted_on`: what a fit of the zoo's must be of to be taken over; None where none may be."""
        self.runtime: Runtime = fused
        self.fused = fused
        self.tasks, self.rows, self.settings, self.seed = tasks, rows, settings, settings.seed
        self.work, self.name, self.report, self.fitted_on = work, name, report, fitted_on
        self.compute = Compute(fused.model.device, fused.model.dtype)
        self.record: dict[str, Any] = {}
        self._told = False
        self.tokenizer = load_tokenizer(str(fused.zoo.base_folder()))
        self.cutoff = length_of(fused.zoo, fused.model)
        self.pad = pad_token(self.tokenizer)

    def descend(
        self,
        start: Parameters,
        updates: MakeUpdates,
        rates: Sequence[float] = MAP_RATES,
        *,
        tasks: Sequence[str] | None = None,
        steps: int | None = None,
        rows: int | None = None,
        epochs: float | None = None,
        part: str = "",
    ) -> dict[str, Tensor]:
        """See `Fitting.descend`."""
        chosen = [each for each in self.rows if tasks is None or each.task in tasks]
        if rows is not None:
            chosen = [replace(each, fit=Head(each.fit, min(rows, len(each.fit)))) for each in chosen]
        batches = self._batches(chosen)
        if epochs is not None:
            steps = math.ceil(epochs * batches.per_epoch)
        return self._search(
            lambda: LanguageLoss(self.fused, start, updates),
            batches,
            PadRight(self.pad),
            lambda found: self._dev(updates(found), chosen),
            rates,
            steps,
            part,
        )

    def distil(self, start: Parameters, updates: MakeUpdates, weights: Tensor) -> dict[str, Tensor]:
        """See `Fitting.distil`; the rate is chosen by the student's own loss on dev rows."""
        return self._search(
            lambda: Distance(self.fused, start, updates, weights),
            self._batches(self.rows),
            PadRight(self.pad),
            lambda found: self._dev(updates(found), self.rows),
            MAP_RATES,
        )

    def sharpen(
        self, start: Parameters, updates: MakeUpdates, rates: Sequence[float] = MAP_RATES
    ) -> dict[str, Tensor]:
        """See `Fitting.sharpen`."""

        def dev(found: Parameters) -> float:
            self.fused.put(updates(found))
            rows = [example for each in self.rows for example in self._examples(each.dev[: len(each.dev)])]
            return mean_entropy(self.fused, rows, self.pad, self.compute.dtype)

        return self._search(
            lambda: Entropy(self.fused, start, updates),
            self._batches(self.rows),
            PadRight(self.pad),
            dev,
            rates,
        )

    def mix(
        self, start: Parameters, loss: Callable[[Parameters, Tensor], Tensor], part: str = ""
    ) -> dict[str, Tensor]:
        """See `Fitting.mix`."""
        device = self.compute.device

        def dev(found: Parameters) -> float:
            scores = [each.log_probabilities.to(device) for each in self.scores("dev")]
            return sum(float(loss(found, one)) / one.shape[1] for one in scores) / len(scores)

        return self._search(
            lambda: Mixture(start, loss, device),
            CachedBatches(self.scores("fit"), self.settings.batch_size, self.seed),
            collate_scores,
            dev,
            WEIGHT_RATES,
            part=part,
        )

    def inputs(self, expert: int, rows: int, see: SeeInputs) -> None:
        """See `Fitting.inputs`."""
        visit_inputs(self.fused, expert_alone(self.fused.pool, expert), self._own(expert, rows), see)

    def gradients(self, expert: int, rows: int, see: SeeGradients) -> None:
        """See `Fitting.gradients`."""
        updates = expert_alone(self.fused.pool, expert)
        visit_gradients(self.fused, updates, self._own(expert, rows), self.seed, see)

    def kept(self, part: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """See `Fitting.kept`."""
        path = self.work / f"{part.replace('/', '+')}.safetensors"
        if not path.is_file():
            self.report(f"fit {self.name}: {part}")
            write_bytes(path, save({key: value.cpu().contiguous() for key, value in make().items()}))
        return {key: value.to(self.compute.device) for key, value in load_file(path).items()}

    def learned(self, method: Fitted) -> dict[str, Tensor]:
        """See `Fitting.learned`; where it is from is recorded."""
        kept = self._kept_fit(method)
        if kept is not None:
            return kept
        inner = copy.copy(self)
        inner.work, inner.name, inner.record = self.work / method.name, f"{self.name}, {method.label()}", {}
        found = method.fit(inner)
        self.record[method.label()] = inner.record
        return found

    def _kept_fit(self, method: FusionMethod) -> dict[str, Tensor] | None:
        """What the zoo has learned by a method on the very experts, base and rows, which is recorded."""
        if self.fitted_on is None:
            return None
        found = kept_fit(self.fused.zoo, method, self.fitted_on, self.compute)
        if found is None:
            return None
        entry, tensors = found
        self.record[method.label()] = {"fit": entry.name, "sha256": entry.sha256}
        return tensors

    def _own(self, expert: int, rows: int) -> list[Example]:
        tasks = self.fused.pool.experts[expert].tasks
        return self._examples([row for each in self.rows if each.task in tasks for row in each.fit[:rows]])

    def routers(self, pooling: Pool) -> dict[str, Tensor]:
        """See `Fitting.routers`; what is known of their accuracy is recorded."""
        settings = RouterSettings(pool=pooling, seed=self.seed, cutoff=self.cutoff)
        settings = replace(settings, steps=self.settings.steps or settings.steps)
        prompts: list[list[int]] = []
        labels: list[int] = []
        for each in self.rows:
            examples = self._examples(each.fit[: settings.prompts_per_task])
            prompts += [prompt_of(example) for example in examples]
            labels += [self.fused.pool.index_of_task(each.task)] * len(examples)
        tensors, learned = learn_routers(self.fused, prompts, labels, settings)
        self.record |= {"routers": asdict(settings), **learned}
        return tensors

    def clusters(self, count: int) -> Tensor:
        """See `Fitting.clusters`; whose they are is recorded."""
        kept, pool = self.fused.zoo.manifest.clusters, self.fused.pool
        theirs = {expert.name: expert.sha256 for expert in pool.experts}
        if kept is None or len(kept.members) != count or kept.experts != theirs:
            self.record["clusters"] = "of the fit"
            return clusters_of(pool, count, self.seed)
        self.record["clusters"] = "of the zoo"
        place = {name: i for i, group in enumerate(kept.members) for name in group}
        return torch.tensor([place[name] for name in pool.names])

    def loss(self, updates: Mapping[str, Update], task: str, rows: int) -> float:
        """See `Fitting.loss`."""
        own = next(each for each in self.rows if each.task == task)
        return self._nats(updates, own.fit[:rows])

    def losses(self) -> LossMatrix:
        """See `Fitting.losses`."""
        kept = self._kept_fit(Losses())
        if kept is not None:
            return LossMatrix(self.fused.pool.names, self.tasks, **kept)
        return loss_matrix(self.fused.pool.names, self.tasks, self.scores("dev"))

    def scores(self, split: str) -> list[TokenScores]:
        """Every expert's scores on the `fit` or `dev` rows of every task, each task kept when it is done."""
        paths = {each.task: self.work / f"{split}-{each.task}.safetensors" for each in self.rows}
        own = {each.task: each.fit if split == "fit" else each.dev for each in self.rows}
        waiting = [task for task, path in paths.items() if not path.is_file()]
        left = {task: self._examples(own[task][: len(own[task])]) for task in waiting}
        updates = row_updates(self.fused.pool, self.fused)
        if left:
            self.fused.put(updates)
            taken = estimate_of(self.fused, [example for examples in left.values() for example in examples])
            self.report(taken.said(f"fit {self.name}: {split} rows under {len(self.fused.pool)} experts"))

        def make(task: str) -> TokenScores:
            self.report(f"fit {self.name}: {split} rows of {task} under {len(self.fused.pool)} experts")
            return score_experts(self.fused, left[task], self.compute.dtype, updates)

        return [kept_scores(path, partial(make, task)) for task, path in paths.items()]

    def _search(
        self,
        make: Callable[[], Objective],
        batches: Any,
        collate: Callable[[list[Example]], dict[str, Tensor]],
        dev: Callable[[Parameters], float],
        rates: Sequence[float],
        steps: int | None = None,
        part: str = "",
    ) -> dict[str, Tensor]:
        """Descend at every rate, and take the parameters that are best on dev rows; ties go to the earlier rate."""
        bound = steps or math.ceil(self.settings.epochs * batches.per_epoch)
        bound = min(bound, self.settings.steps or bound)
        found = {}
        for rate in self.settings.rates or rates:
            schedule = Schedule(
                learning_rate=rate,
                steps=bound,
                batch_size=self.settings.batch_size,
                warmup_share=0.0,
                decay="constant",
                seed=self.seed,
            )
            found[rate] = self._descent(make, batches, collate, dev, schedule, part)
        best = min(found, key=lambda rate: found[rate][1])
        tried = {f"{rate:g}": loss for rate, (_, loss) in found.items()}
        said = {"steps": bound, "dev_losses": tried, "learning_rate": best}
        self.record |= {part: said} if part else said
        self.report(f"fit {self.name}{part and f' {part}'}: dev loss {found[best][1]:.4f} at rate {best:g}")
        return found[best][0]

    def _descent(
        self,
        make: Callable[[], Objective],
        batches: Any,
        collate: Callable[[list[Example]], dict[str, Tensor]],
        dev: Callable[[Parameters], float],
        schedule: Schedule,
        part: str,
    ) -> tuple[dict[str, Tensor], float]:
        """The parameters after one descent, and their dev loss; a finished descent is not run again."""
        work = self.work / "-".join(filter(None, [part.replace("/", "+"), f"{schedule.learning_rate:g}"]))
        path, said = work / FILE, work / "dev.json"
        if not said.is_file():
            name = f"fit {self.name}{part and f' {part}'} at rate {schedule.learning_rate:g}"
            with isolated_randomness():
                objective = make()
                train(
                    objective,
                    batches,
                    collate,
                    schedule,
                    work,
                    Progress(name, self.report, first=not self._told),
                    self.compute.dtype,
                )
            self._told = True
            tensors = {key: value.detach() for key, value in objective.named.items()}
            write_bytes(path, save({key: value.cpu().contiguous() for key, value in tensors.items()}))
            with torch.no_grad():
                write_json(said, {"dev_loss": dev(tensors)})
        found = {key: value.to(self.compute.device) for key, value in load_file(path).items()}
        return found, read_json(said, "Delete that folder.")["dev_loss"]

    def _dev(self, updates: Mapping[str, Update], rows: Sequence[FitRows]) -> float:
        """Mean over tasks of nats per token on dev rows."""
        return sum(self._nats(updates, each.dev) for each in rows) / len(rows)

    def _nats(self, updates: Mapping[str, Update], rows: Sequence[Row]) -> float:
        """Nats per token of the rows' targets."""
        examples = self._examples(rows[: len(rows)])
        scores = score_rows(self.fused, updates, examples, self.compute.dtype)
        return -float(scores.log_probabilities.double().mean())

    def _examples(self, rows: Sequence[Row]) -> list[Example]:
        return tokenize(rows, self.tokenizer, self.cutoff)

    def _batches(self, rows: Sequence[FitRows]) -> Batches:
        return Batches(
            [r.fit for r in rows], self.tokenizer, self.cutoff, self.settings.batch_size, self.seed
        )
