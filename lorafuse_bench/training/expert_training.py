"""Training LoRA experts, one per task, on any base and any data source.

`train_experts` is what `lorafuse train experts` and the build of the mini zoo call. An expert that is
finished is never trained again; an interrupted one goes on from its last checkpoint to the same weights.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel

from lorafuse_bench.device import AUTO, DTYPES, Compute
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import write_json
from lorafuse_bench.layers import is_linear
from lorafuse_bench.loading import load_model, load_tokenizer
from lorafuse_bench.tasks.rows import training_rows
from lorafuse_bench.training import trackers
from lorafuse_bench.training.examples import Batches, PadRight, hold_out, pad_token, seed_of
from lorafuse_bench.training.loop import Progress, Report, isolated_randomness, train
from lorafuse_bench.training.loss import completion_loss
from lorafuse_bench.training.records import (
    RECORD,
    base_sha256,
    check_length,
    identity,
    is_finished,
    portable_source,
    work_folder,
    write_manifest,
)
from lorafuse_bench.training.settings import ALL_LINEAR, ExpertSettings
from lorafuse_bench.training.trackers import Trackers
from lorafuse_bench.zoo.describe import peft_base
from lorafuse_bench.zoo.installed import writable
from lorafuse_bench.zoo.manifest import Zoo, local_model


def train_experts(
    base: str,
    keys: Sequence[str],
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
    """Train one expert per task key into the zoo at `out` and describe them in its manifest.

    base: a model folder or hub id. source: `hub`, `mini` or a data directory. workers: experts trained at
    a time, each in a process of its own when more than one. device and dtype: see `lorafuse_bench.device`.
    report_to: trackers to follow the runs in. Raises LorafuseError when `out` holds experts of other settings
    or another length, or has another base.
    """
    writable(out)
    trackers.check(report_to)
    check_length(out, settings.cutoff)
    base_sha256(base)  # a base that is not there is said before any rows are fetched
    waiting = [key for key in keys if not is_finished(base, key, out, source, settings)]
    for key in keys:
        if key not in waiting:
            report(f"expert {key}: already trained, kept")
    compute = Compute.of(device, dtype, str(local_model(Path(base), base)))
    if workers == 1:
        for key in waiting:
            train_expert(base, key, out, source, settings, compute, report, report_to)
            write_manifest(base, out, source, settings, name)
    else:
        for key in _in_processes(base, waiting, out, source, settings, compute, workers, report_to):
            report(f"expert {key}: done")
            write_manifest(base, out, source, settings, name)
    return write_manifest(base, out, source, settings, name)


def train_expert(
    base: str,
    key: str,
    out: Path,
    source: str,
    settings: ExpertSettings,
    compute: Compute,
    report: Report = print,
    report_to: Sequence[str] = (),
) -> None:
    """Train the expert of one task into `out/experts/<key>`, resuming an interrupted run."""
    rows, _ = hold_out(training_rows(key, source, limit=settings.rows), settings.held_out)
    described = identity(base, key, portable_source(source, out), settings)
    work = work_folder(out, key, described)
    folder = str(local_model(Path(base), base))
    tokenizer = load_tokenizer(folder)
    with isolated_randomness():
        model = new_expert(load_model(folder, compute.dtype), key, settings)
        initial = initial_sha256(model)
        model.to(compute.device)
        trained = train(
            ExpertTraining(model),
            Batches([rows], tokenizer, settings.cutoff, settings.batch_size, seed_of(key, settings.seed)),
            PadRight(pad_token(tokenizer)),
            replace(settings.for_rows(len(rows)), seed=seed_of(key, settings.seed)),
            work,
            Progress(f"expert {key}", report, Trackers(report_to, key, out / "logs", asdict(settings))),
            compute.dtype,
        )
    record = described | {
        "rows": len(rows),
        "steps": settings.for_rows(len(rows)).steps,
        "loss": trained.loss,
        "tokens": trained.tokens,
        "targets": sorted(model.peft_config["default"].target_modules),
        "initial_a_sha256": initial,
        "relative_update_norm": relative_update_norm(model),
        **compute.record(),
    }
    model.peft_config["default"].base_model_name_or_path = peft_base(base)
    _finish(model, record, work, out / "experts" / key, DTYPES[settings.saved_as])


class ExpertTraining(nn.Module):
    """A model whose `forward` returns the completion loss of a portion of a batch."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

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
        try:
            return get_peft_model(model, config)
        except ValueError as error:  # PEFT's, for names that no module has
            linear = sorted({name.rpartition(".")[2] for name, m in model.named_modules() if is_linear(m)})
            raise LorafuseError(
                f"--targets {','.join(settings.targets)}: the base has no such modules."
                f" Use {ALL_LINEAR}, or some of {', '.join(linear)}."
            ) from error


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
            f"cannot write {ready}: {error}. Make room; the same command goes on from the last checkpoint."
        ) from error
    (ready / "README.md").unlink(missing_ok=True)
    write_json(ready / RECORD, record)
    folder.parent.mkdir(parents=True, exist_ok=True)
    os.replace(ready, folder)
    shutil.rmtree(work)


def _in_processes(
    base: str,
    keys: list[str],
    out: Path,
    source: str,
    settings: ExpertSettings,
    compute: Compute,
    workers: int,
    report_to: Sequence[str],
) -> Iterator[str]:
    """Train experts in processes of their own, yielding each key when it is done."""
    # Two processes with two threads each fight over two cores; a child reads these when it imports torch.
    changed = SINGLE_THREAD if compute.device.type == "cpu" else {}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            shared = (out, source, settings, compute, print, report_to)
            runs = {pool.submit(train_expert, base, key, *shared): key for key in keys}
            for run in as_completed(runs):
                run.result()
                yield runs[run]
    finally:
        for variable, value in before.items():
            if value is None:
                del os.environ[variable]
            else:
                os.environ[variable] = value


SINGLE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
