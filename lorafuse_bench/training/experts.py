"""Training LoRA experts, one per task, on any base and any data source.

`train_experts` is what `lorafuse train experts` and the build of the mini zoo call. An expert that is
finished is never trained again; an interrupted one goes on from its last checkpoint to the same weights.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel

from lorafuse_bench.files import write_json
from lorafuse_bench.tasks.rows import training_rows
from lorafuse_bench.training.examples import PadRight, load_tokenizer, pad_token, tokenize
from lorafuse_bench.training.loop import (
    Progress,
    Report,
    isolated_randomness,
    seed_of,
    train,
    training_arguments,
)
from lorafuse_bench.training.records import (
    RECORD,
    base_sha256,
    identity,
    is_finished,
    portable_base,
    portable_source,
    write_manifest,
)
from lorafuse_bench.training.settings import ExpertSettings
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
    report: Report = print,
) -> Zoo:
    """Train one expert per task key into the zoo at `out` and describe them in its manifest.

    base: a model folder or hub id. source: `hub`, `mini` or a data directory. workers: experts trained at
    a time, each in a single-threaded process of its own when more than one.
    Raises LorafuseError when `out` holds experts of other settings or of another base.
    """
    base_sha256(base)  # a base that is not there is said before any rows are fetched
    waiting = [key for key in keys if not is_finished(base, key, out, source, settings)]
    for key in keys:
        if key not in waiting:
            report(f"expert {key}: already trained, kept")
    if workers == 1:
        for key in waiting:
            train_expert(base, key, out, source, settings, report)
            write_manifest(base, out, source, settings, name)
    else:
        for key in _in_processes(base, waiting, out, source, settings, workers):
            report(f"expert {key}: done")
            write_manifest(base, out, source, settings, name)
    return write_manifest(base, out, source, settings, name)


def train_expert(
    base: str, key: str, out: Path, source: str, settings: ExpertSettings, report: Report = print
) -> None:
    """Train the expert of one task into `out/experts/<key>`, resuming an interrupted run."""
    rows = training_rows(key, source, limit=settings.rows)
    work = out / ".training" / key
    with isolated_randomness():
        folder = str(local_model(Path(base), base))
        tokenizer = load_tokenizer(folder)
        examples = [tokenize(row, tokenizer, settings.cutoff) for row in rows]
        model = new_expert(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), key, settings)
        initial = initial_sha256(model)
        arguments = training_arguments(work, settings, seed_of(key, settings.seed))
        loss = train(
            model, examples, PadRight(pad_token(tokenizer)), arguments, Progress(f"expert {key}", report)
        )
    record = identity(base, key, portable_source(source, out), settings) | {
        "rows": len(rows),
        "loss": loss,
        "initial_a_sha256": initial,
        "relative_update_norm": relative_update_norm(model),
    }
    # An adapter names its base as the manifest does: a zoo must not hold paths of one machine.
    model.peft_config["default"].base_model_name_or_path = portable_base(base, out)
    _finish(model, record, work, out / "experts" / key)


def new_expert(model: PreTrainedModel, key: str, settings: ExpertSettings) -> PeftModel:
    """The base with a fresh LoRA; `init=shared` gives every task the same A."""
    seed = settings.seed if settings.init == "shared" else seed_of(key, settings.seed)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def relative_update_norm(model: PeftModel) -> float:
    """Mean over adapted modules of ‖ΔW‖_F / ‖W‖_F, ΔW = s·B@A."""
    ratios = []
    for module in model.modules():
        if hasattr(module, "get_delta_weight") and hasattr(module, "get_base_layer"):
            update = module.get_delta_weight("default").detach()
            ratios.append(update.norm() / module.get_base_layer().weight.detach().norm())
    return float(torch.stack(ratios).mean())


def initial_sha256(model: PeftModel) -> str:
    """Hash over all A of a fresh LoRA, so that a manifest can show that experts share it."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if "lora_A" in name:
            digest.update(name.encode() + parameter.detach().float().numpy().tobytes())
    return digest.hexdigest()


def _finish(model: PeftModel, record: dict[str, Any], work: Path, folder: Path) -> None:
    """Save adapter and record beside the final folder, move them there in one step, drop checkpoints."""
    ready = work / "finished"
    model.save_pretrained(str(ready), safe_serialization=True)
    (ready / "README.md").unlink(missing_ok=True)
    write_json(ready / RECORD, record)
    folder.parent.mkdir(parents=True, exist_ok=True)
    os.replace(ready, folder)
    shutil.rmtree(work)


def _in_processes(
    base: str, keys: list[str], out: Path, source: str, settings: ExpertSettings, workers: int
) -> Iterator[str]:
    """Train experts in single-threaded processes of their own, yielding each key when it is done."""
    # Two processes with two threads each fight over two cores; a child reads these when it imports torch.
    before = {name: os.environ.get(name) for name in SINGLE_THREAD}
    os.environ.update(SINGLE_THREAD)
    try:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            runs = [(key, pool.submit(train_expert, base, key, out, source, settings)) for key in keys]
            for key, run in runs:
                run.result()
                yield key
    finally:
        for variable, value in before.items():
            if value is None:
                del os.environ[variable]
            else:
                os.environ[variable] = value


SINGLE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
