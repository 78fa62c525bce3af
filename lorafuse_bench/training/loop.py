"""The loop that experts, jointly trained routers and adapters share: transformers' Trainer, resumable."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from lorafuse_bench.training.examples import PadRight
from lorafuse_bench.training.settings import Schedule

Report = Callable[[str], None]


class Progress(TrainerCallback):
    """Says about ten times per run how far `what` is."""

    def __init__(self, what: str, report: Report) -> None:
        self.what, self.report = what, report

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % max(1, state.max_steps // 10) == 0 or state.global_step == state.max_steps:
            self.report(f"{self.what}: step {state.global_step}/{state.max_steps}")


@contextmanager
def isolated_randomness() -> Iterator[None]:
    """Put torch's global generator back afterwards: the Trainer seeds it."""
    with torch.random.fork_rng():
        yield


def seed_of(key: str, seed: int) -> int:
    """A seed for one task, the same in every process."""
    return int.from_bytes(hashlib.sha256(f"{key} {seed}".encode()).digest()[:4], "big")


def training_arguments(work: Path, settings: Schedule, seed: int, **changes: Any) -> TrainingArguments:
    """Linear warm-up and decay, a few checkpoints on the way, nothing logged or drawn; `changes` override."""
    arguments: dict[str, Any] = {
        "output_dir": str(work),
        "per_device_train_batch_size": settings.batch_size,
        "max_steps": settings.steps,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": round(settings.warmup_share * settings.steps),
        "save_steps": max(1, settings.steps // settings.checkpoints),
        "save_total_limit": 1,
        "seed": seed,
        "data_seed": seed,
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    return TrainingArguments(**(arguments | changes))


def train(
    model: torch.nn.Module,
    rows: list[dict[str, Any]],
    collator: PadRight,
    arguments: TrainingArguments,
    progress: Progress,
) -> float:
    """Train to the end, from the last checkpoint where there is one; the mean loss."""
    trainer = Trainer(
        model=model, args=arguments, train_dataset=rows, data_collator=collator, callbacks=[progress]
    )
    trainer.remove_callback(PrinterCallback)  # prints a dictionary at the end
    work = Path(str(arguments.output_dir))
    checkpoint = get_last_checkpoint(str(work)) if work.is_dir() else None
    return float(trainer.train(resume_from_checkpoint=checkpoint).training_loss)
