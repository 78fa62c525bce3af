"""Training LoRA experts, one per task, cluster of tasks or for all, on any base and any data source.

`train_experts` is what `lorafuse train experts` and the build of the mini zoo call. An expert that is
finished is never trained again; an interrupted one goes on from its last checkpoint to the same weights.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel

from lorafuse_bench.device import AUTO, DTYPES, Compute
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import move_folder, write_json
from lorafuse_bench.layers import is_linear
from lorafuse_bench.loading import load_model, load_tokenizer
from lorafuse_bench.progress import Watcher, relayed, watching
from lorafuse_bench.tasks.data import HUB
from lorafuse_bench.tasks.rows import check_trainable, training_rows
from lorafuse_bench.training import trackers
from lorafuse_bench.training.examples import Batches, PadRight, hold_out, pad_token, seed_of
from lorafuse_bench.training.loop import Progress, Report, Trainable, isolated_randomness, train
from lorafuse_bench.training.loss import completion_loss
from lorafuse_bench.training.records import RECORD, Recipe, Wanted, check_length, check_positions
from lorafuse_bench.training.settings import ALL_LINEAR, ExpertSettings
from lorafuse_bench.training.team import ONE, Team, alone
from lorafuse_bench.training.trackers import Trackers
from lorafuse_bench.workers import sharing, single_threaded, uninterrupted
from lorafuse_bench.zoo.describe import describe_base, peft_base
from lorafuse_bench.zoo.installed import writable
from lorafuse_bench.zoo.manifest import Zoo


def train_experts(
    base: str,
    wanted: Sequence[str | Wanted],
    out: Path,
    source: str,
    settings: ExpertSettings,
    *,
    name: str | None = None,
    workers: int = 1,
    device: str = AUTO,
    dtype: str = AUTO,
    report: Report = print,
    report_to: Sequence[str] = (),
) -> Zoo:
    """Train experts into the zoo at `out` and describe them in its manifest; a task's key asks for its own expert.

    Processes of `accelerate launch` train each together. base: a model folder or hub id. source: `hub`, `mini` or a
    data directory. workers: experts trained at a time, each in a process of its own when more than one. device and
    dtype: see `lorafuse_bench.device`. report_to: trackers to follow the runs in. Raises LorafuseError when `out` holds
    experts of other settings or another length, or has another base.
    """
    writable(out)
    team = Team.of_launch()
    report, device = team.report(report), team.device(device)
    if workers > 1:
        alone("training several experts at a time")
    trackers.check(report_to)
    check_length(out, settings.cutoff)
    # A base that is not there is said before any rows are fetched.
    recipe = Recipe(base, describe_base(base, out), out, source, settings)
    check_positions(recipe.model, settings.cutoff)
    watcher, waiting = watching(report), []
    for one in (Wanted.private(each) if isinstance(each, str) else each for each in wanted):
        if recipe.is_finished(one):
            watcher.say(f"expert {one.name}: already trained, kept")
            shutil.rmtree(recipe.work(one), ignore_errors=True)  # of a run that was killed at its very end
        else:
            waiting.append(one)
    team.wait()
    _check_rows(recipe, waiting)
    compute = Compute.of(device, dtype, recipe.model)
    watcher.expect(len(waiting))
    if workers == 1:
        for one in waiting:
            with watcher.step(f"expert {one.name}"):
                train_expert(recipe, one, compute, watcher, report_to, team)
                if team.leads:
                    recipe.enter(name)
    else:
        start = time.perf_counter()
        for one in _in_processes(recipe, waiting, compute, workers, report_to, watcher):
            recipe.enter(name)
            watcher.finish(f"expert {one.name}", time.perf_counter() - start)
            start = time.perf_counter()
    if team.leads:
        recipe.enter(name)
    team.wait()
    return Zoo.open(out)


def _check_rows(recipe: Recipe, waiting: Sequence[Wanted]) -> None:
    """LorafuseError before anything is trained where a task has no rows; the hub's are fetched as they are needed."""
    for task in dict.fromkeys(task for one in waiting for task in one.tasks):
        check_trainable(task)
        if recipe.source != HUB:
            training_rows(task, recipe.source)


def train_expert(
    recipe: Recipe,
    wanted: Wanted,
    compute: Compute,
    report: Report = print,
    report_to: Sequence[str] = (),
    team: Team = ONE,
) -> None:
    """Train one expert into its folder, resuming an interrupted run."""
    settings, key = recipe.settings, wanted.name
    rows = {task: hold_out(recipe.rows(task), settings.held_out)[0] for task in wanted.tasks}
    seed, tokenizer = seed_of(key, settings.seed), load_tokenizer(recipe.model)
    batches = Batches(list(rows.values()), tokenizer, settings.cutoff, settings.batch_size, seed)
    schedule = replace(settings.for_rows(batches.rows), seed=seed)
    followed = Trackers(report_to if team.leads else (), key, recipe.out / "logs", asdict(settings))
    with isolated_randomness():
        model = new_expert(load_model(recipe.model, compute.dtype), key, settings)
        initial = initial_sha256(model)
        model.to(compute.device)
        trained = train(
            ExpertTraining(model),
            batches,
            PadRight(pad_token(tokenizer)),
            schedule,
            recipe.work(wanted),
            Progress(f"expert {key}", report, followed, alike=(recipe.described.sha256, settings, compute)),
            compute.dtype,
            team,
        )
    record = recipe.identity(wanted) | {
        "rows": batches.rows,
        "rows_of_task": {task: len(own) for task, own in rows.items()},
        "steps": schedule.steps,
        "loss": trained.loss,
        "tokens": trained.tokens,
        "targets": sorted(model.peft_config["default"].target_modules),
        "initial_a_sha256": initial,
        "relative_update_norm": relative_update_norm(model),
        **compute.record(),
    }
    model.peft_config["default"].base_model_name_or_path = peft_base(recipe.base)
    if team.leads:
        _finish(model, record, recipe.work(wanted), recipe.folder(wanted), DTYPES[settings.saved_as])


class ExpertTraining(Trainable):
    """A model whose `forward` returns the completion loss of a portion of a batch."""

    def __init__(self, model: PeftModel) -> None:
        super().__init__()
        self.model = model

    def network(self) -> PreTrainedModel:
        return self.model.get_base_model()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        task: Tensor,
        num_items_in_batch: int | None = None,
    ) -> dict[str, Tensor]:
        """Summed over the portions of a batch: its mean loss per target, however it is divided."""
        del task
        loss, own = completion_loss(self.model, labels, input_ids=input_ids, attention_mask=attention_mask)
        return {"loss": loss / (own if num_items_in_batch is None else num_items_in_batch)}


def new_expert(model: PreTrainedModel, key: str, settings: ExpertSettings) -> PeftModel:
    """The base with a fresh LoRA; `init=shared` gives every task the same A."""
    _check_targets(model, settings.targets)
    seed = settings.seed if settings.init == "shared" else seed_of(key, settings.seed)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=ALL_LINEAR if settings.targets == (ALL_LINEAR,) else list(settings.targets),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def _check_targets(model: PreTrainedModel, targets: Sequence[str]) -> None:
    """LorafuseError for a target that is no linear map of the base: PEFT passes over one beside others that are."""
    linear = {name.rpartition(".")[2] for name, module in model.named_modules() if is_linear(module)}
    wrong = [repr(name) for name in targets if name not in linear] if targets != (ALL_LINEAR,) else []
    if wrong or not targets:
        raise LorafuseError(
            f"--targets {','.join(targets)}: the base has no linear map {', '.join(wrong)}."
            f" Use {ALL_LINEAR}, or some of {', '.join(sorted(linear))}."
        )


def relative_update_norm(model: PeftModel) -> float:
    """Mean over adapted modules of ‖ΔW‖_F / ‖W‖_F, ΔW = s·B@A."""
    ratios = []
    for module in model.modules():
        if hasattr(module, "get_delta_weight") and hasattr(module, "get_base_layer"):
            update = module.get_delta_weight("default").detach()
            ratios.append(update.float().norm() / module.get_base_layer().weight.detach().float().norm())
    return float(torch.stack(ratios).mean())


def initial_sha256(model: PeftModel) -> str:
    """Hash over all A of a fresh LoRA, so that a manifest can show that experts share it."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if "lora_A" in name:
            digest.update(name.encode() + parameter.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _finish(model: PeftModel, record: dict[str, Any], work: Path, folder: Path, dtype: torch.dtype) -> None:
    """Save adapter and record beside the final folder, move them there in one step, drop checkpoints."""
    ready = work / "finished"
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    try:
        model.save_pretrained(str(ready), safe_serialization=True)
    except (OSError, SafetensorError) as error:
        raise LorafuseError(
            f"cannot write {ready}: {error}. Make room; the same command continues from the last checkpoint."
        ) from error
    (ready / "README.md").unlink(missing_ok=True)
    write_json(ready / RECORD, record)
    move_folder(ready, folder)
    shutil.rmtree(work)


def _in_processes(
    recipe: Recipe,
    wanted: Sequence[Wanted],
    compute: Compute,
    workers: int,
    report_to: Sequence[str],
    watcher: Watcher,
) -> Iterator[Wanted]:
    """Train experts in processes of their own, yielding each when it is done."""
    spawn = get_context("spawn")
    with (
        single_threaded(compute.device.type == "cpu"),
        spawn.Manager() as manager,
        relayed(watcher, manager.Queue()) as relay,
        sharing(workers) as pool,
    ):
        shared = (compute, relay, report_to)
        with uninterrupted():
            runs = {pool.submit(train_expert, recipe, one, *shared): one for one in wanted}
        for run in as_completed(runs):
            run.result()
            yield runs[run]
