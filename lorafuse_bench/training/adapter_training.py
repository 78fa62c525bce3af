"""Training multi-task adapters: one set of new parameters beside a frozen base, on all tasks of a suite.

`train_adapter` is what `lorafuse train adapter` calls. A finished adapter is never trained again; an
interrupted one goes on from its last checkpoint to the same weights.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lorafuse_bench.base_model import Base
from lorafuse_bench.device import AUTO, Compute
from lorafuse_bench.fusion.adapters.trained import TrainedAdapter, TrainedUpdate, derived_of, initialise
from lorafuse_bench.layers import Selection, install
from lorafuse_bench.loading import load_model, load_tokenizer
from lorafuse_bench.progress import watching
from lorafuse_bench.tasks.rows import Row, training_rows
from lorafuse_bench.training.adapter_records import (
    adapter_name,
    enter,
    finish,
    finished,
    save_tensors,
    trained_options,
    zoo_at,
)
from lorafuse_bench.training.decompositions import cache_file, cached, keep
from lorafuse_bench.training.examples import Batches, PadRight, pad_token
from lorafuse_bench.training.loop import Progress, Report, Trainable, isolated_randomness, train
from lorafuse_bench.training.loss import completion_loss
from lorafuse_bench.training.records import check_positions, portable_source, rows_sha256, work_folder
from lorafuse_bench.training.settings import AdapterSettings
from lorafuse_bench.training.team import Team
from lorafuse_bench.zoo.manifest import AdapterEntry, Zoo, local_model


def train_adapter(
    method: TrainedAdapter,
    suite: str,
    keys: Sequence[str],
    base: str,
    out: Path,
    source: str,
    settings: AdapterSettings,
    report: Report = print,
    device: str = AUTO,
    dtype: str = AUTO,
) -> AdapterEntry:
    """Train an adapter on the tasks `keys`, called `suite`, and enter it into the manifest of the zoo at `out`.

    Processes of `accelerate launch` train it together. base: a model folder, a hub id or `mini`. source: `hub`,
    `mini` or a data directory. device and dtype: see `lorafuse_bench.device`; what is trained is of float32. Raises
    LorafuseError when `out` is a zoo of another base or length, or holds this adapter trained otherwise.
    """
    team = Team.of_launch()
    report, device = team.report(report), team.device(device)
    zoo = zoo_at(base, out, source, settings.seed, settings.cutoff)
    name = adapter_name(method, suite)
    record = {
        "method": method.name,
        "version": method.version,
        "options": trained_options(method),
        "trained_on": suite,
        "tasks": list(keys),
        "base_sha256": zoo.manifest.base.sha256,
        "settings": {"source": portable_source(source, out), **asdict(settings)},
    }
    folder = out / "adapters" / name
    there = finished(folder, record)
    rows = cache(lambda: {key: training_rows(key, source, limit=settings.rows) for key in keys})
    record |= rows_sha256(folder, there, lambda: {key: own.sha256(len(own)) for key, own in rows().items()})
    work = work_folder(out, "adapter", record)
    team.wait()  # none is done before all have looked
    watcher = watching(report)
    if there:
        watcher.say(f"adapter {name}: already trained, kept")
    else:
        model = local_model(Path(base), base)
        check_positions(model, settings.cutoff)
        compute = Compute.of(device, dtype, model)
        kept = cache_file(zoo.manifest.base.sha256, method.name, compute.dtype)
        watcher.expect(1)
        with watcher.step(f"adapter {name}"):
            shapes = (method, len(keys), zoo.manifest.base.sha256, replace(settings, seed=0), compute)
            progress = Progress(f"adapter {name}", watcher, alike=shapes)
            described = _train(
                method, list(rows().values()), model, settings, compute, work, kept, progress, team
            )
            if team.leads:
                finish(work / "finished", folder, record | described | compute.record())
    if team.leads:
        shutil.rmtree(work, ignore_errors=True)  # also of a run that was killed at its very end
        enter(zoo, name)
    team.wait()
    return next(entry for entry in Zoo.open(out).manifest.adapters if entry.name == name)


def _train(
    method: TrainedAdapter,
    tasks: Sequence[Sequence[Row]],
    folder: Path,
    settings: AdapterSettings,
    compute: Compute,
    work: Path,
    decompositions: Path,
    progress: Progress,
    team: Team,
) -> dict[str, Any]:
    """Train into `work/finished`; what became of it. What the base's weights alone tell is in `decompositions`."""
    tokenizer = load_tokenizer(folder)
    batches = Batches(tasks, tokenizer, settings.cutoff, settings.batch_size, settings.seed)
    if settings.epochs is not None:
        settings = replace(settings, steps=math.ceil(settings.epochs * batches.per_epoch))
    with isolated_randomness():
        known = cached(decompositions)
        model = AdapterTraining(load_base(folder, compute), method, len(tasks), settings.seed, known)
        if settings.gradient_checkpointing:
            model.base.recompute()
        if team.leads:
            keep(decompositions, derived_of(model.updates), known)
        collate = PadRight(pad_token(tokenizer))
        trained = train(model, batches, collate, settings, work, progress, compute.dtype, team)
    if team.leads:
        save_tensors(work / "finished", model.updates)
    return {
        "steps": settings.steps,
        "rows": batches.rows,
        "tokens": trained.tokens,
        "loss": trained.loss,
        "parameters": sum(update.size for update in model.updates.values()),
    }


class AdapterTraining(Trainable):
    """A base with an adapter to train: `forward` returns the loss."""

    def __init__(
        self,
        model: PreTrainedModel,
        method: TrainedAdapter,
        tasks: int,
        seed: int,
        derived: Mapping[str, Tensor] | None = None,
    ) -> None:
        """derived: what the method would derive from the base, where some of it is known."""
        super().__init__()
        self.model = model.requires_grad_(False)
        self.selection = Selection()
        self.base = Base(model)
        self.updates: Mapping[str, TrainedUpdate] = method.attach(self.base, tasks, self.selection, derived)
        initialise(self.updates, seed)
        install(model, self.base.modules, self.updates)

    def network(self) -> PreTrainedModel:
        return self.model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        task: Tensor,
        num_items_in_batch: Tensor | int | None = None,
    ) -> dict[str, Tensor]:
        """Completion loss and auxiliary losses of a portion, weighted by its share of the batch's targets.

        Summed over the portions this is the loss of the batch, however it is divided. Auxiliary losses are
        averaged over the routers, so that their weight does not depend on the depth.
        """
        self.selection.set(task[:, None].repeat(1, self.base.blocks))
        language, own = completion_loss(
            self.model, labels, input_ids=input_ids, attention_mask=attention_mask
        )
        losses = [update.auxiliary(attention_mask.bool()) for update in self.updates.values()]
        present = [loss for loss in losses if loss is not None]
        if present:
            language = language + own * torch.stack(present).mean()
        return {"loss": language / (own if num_items_in_batch is None else num_items_in_batch)}


def load_base(folder: str | Path, compute: Compute) -> PreTrainedModel:
    """The model in `folder`, where and in which type it is to compute."""
    return load_model(folder, compute.dtype).to(compute.device)  # type: ignore[arg-type]
