"""Training experts here against a plain loop of PEFT and transformers' Trainer: `lorafuse bench train`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

from lorafuse_bench.bench.timing import machine, paired, target
from lorafuse_bench.device import AUTO, Compute
from lorafuse_bench.loading import load_model, load_tokenizer
from lorafuse_bench.tasks.rows import Row, training_rows
from lorafuse_bench.training.examples import Batches, PadRight, pad_token, tokenize
from lorafuse_bench.training.expert_training import ExpertTraining, new_expert
from lorafuse_bench.training.loop import Progress, isolated_randomness, train
from lorafuse_bench.training.settings import ExpertSettings
from lorafuse_bench.zoo.manifest import local_model

GOALS = {"sst2": 1.6, "squad": 1.8}
"""How many times faster than the plain loop, at least."""


@dataclass(frozen=True)
class Work:
    """What one timed run trains: one expert of a task, on as many rows as its steps take."""

    folder: str
    rows: Sequence[Row]
    tokenizer: PreTrainedTokenizerBase
    settings: ExpertSettings
    compute: Compute

    def model(self) -> PeftModel:
        """The base with a fresh LoRA, where and as it computes."""
        base = load_model(self.folder, self.compute.dtype)
        expert = new_expert(base, "bench", self.settings)
        expert.to(self.compute.device)
        return expert


def run(
    base: str,
    data: str,
    tasks: Sequence[str] = tuple(GOALS),
    steps: int = 16,
    batch: int = 8,
    rounds: int = 3,
    cutoff: int = 512,
    device: str = AUTO,
    dtype: str = AUTO,
) -> dict[str, Any]:
    """Seconds of `steps` steps on the first `steps · batch` rows of each task, in turns.

    base: a model folder, a hub id or `mini`. data: `hub`, `mini` or a data directory.
    """
    folder = str(local_model(Path(base), base))
    tokenizer, compute = load_tokenizer(folder), Compute.of(device, dtype, folder)
    settings = ExpertSettings(steps=steps, batch_size=batch, cutoff=cutoff, checkpoints=1)
    found = {}
    for task in tasks:
        rows = list(islice(training_rows(task, data), steps * batch))
        found[task] = compare(Work(folder, rows, tokenizer, settings, compute), rounds)
    speedups = {task: 1 / row["alternatives"]["ours"]["ratio"] for task, row in found.items()}
    return {
        "schema": "lorafuse.bench.train/1",
        "machine": machine(),
        "base": Path(base).name,
        **compute.record(),
        "steps": steps,
        "batch": batch,
        "cutoff": cutoff,
        "rounds": rounds,
        "tasks": found,
        "targets": [
            target(f"{task}: plain loop over ours", speedup, at_least=GOALS.get(task, 1.0))
            for task, speedup in speedups.items()
        ],
    }


def compare(work: Work, rounds: int) -> dict[str, Any]:
    """Both loops on the same rows, beside how much of what each computes is padding."""
    models = work.model(), work.model()
    calls: dict[str, Callable[[], None]] = {
        "plain": lambda: plain(models[0], work),
        "ours": lambda: ours(models[1], work),
    }
    return {
        "rows": len(work.rows),
        "padded_over_real": padded_over_real(work),
        "alternatives": paired(calls, rounds, warmup=0).against("plain"),
    }


def ours(model: PeftModel, work: Work) -> None:
    """One run of the loop that `lorafuse train experts` uses, tokenising included."""
    settings = work.settings
    batches = Batches([work.rows], work.tokenizer, settings.cutoff, settings.batch_size, settings.seed)
    with isolated_randomness(), tempfile.TemporaryDirectory() as folder:
        quiet = Progress("bench", lambda text: None)
        collate = PadRight(pad_token(work.tokenizer))
        train(ExpertTraining(model), batches, collate, settings, Path(folder), quiet, work.compute.dtype)


def plain(model: PeftModel, work: Work) -> None:
    """One run of the Trainer: random batches padded to their longest row, logits at every position."""
    settings = work.settings
    examples = tokenize(work.rows, work.tokenizer, settings.cutoff)
    with isolated_randomness(), tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=settings.batch_size,
            max_steps=settings.steps,
            learning_rate=settings.learning_rate,
            seed=settings.seed,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            bf16=work.compute.dtype is torch.bfloat16,
            use_cpu=work.compute.device.type == "cpu",
            dataloader_pin_memory=work.compute.device.type == "cuda",
        )
        collate = PadRight(pad_token(work.tokenizer))
        trainer = Trainer(model, arguments, train_dataset=examples, data_collator=collate)
        trainer.remove_callback(PrinterCallback)  # prints a dictionary at the end
        trainer.train()


def padded_over_real(work: Work) -> Mapping[str, float]:
    """Positions computed over tokens read, of random batches (`plain`) and of ours."""
    settings = work.settings
    examples = tokenize(work.rows, work.tokenizer, settings.cutoff)
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0)).tolist()
    size = settings.batch_size
    shuffled = [[examples[i] for i in order[start : start + size]] for start in range(0, len(examples), size)]
    sorted_ = Batches([work.rows], work.tokenizer, settings.cutoff, size, settings.seed)
    real = sum(len(example["input_ids"]) for example in examples)

    def padded(batches: Sequence[Sequence[Mapping[str, Any]]]) -> float:
        widths = [max(len(example["input_ids"]) for example in batch) * len(batch) for batch in batches]
        return sum(widths) / real

    return {"plain": padded(shuffled), "ours": padded([sorted_[i] for i in range(sorted_.per_epoch)])}
