"""Trackers: what they are given, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.training import trackers
from lorafuse_bench.training.loop import Progress
from lorafuse_bench.training.trackers import Trackers


class Kept:
    """Stands for TensorBoard's tracker."""

    requires_logging_directory = True
    said: ClassVar[list[Any]] = []

    def __init__(self, run: str, logging_dir: str) -> None:
        self.said.append((run, logging_dir))

    def start(self) -> None:
        self.said.append("start")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.said.append(values)

    def log(self, values: dict[str, float], step: int) -> None:
        self.said.append((step, values))

    def finish(self) -> None:
        self.said.append("finish")


def test_a_run_is_logged_a_hundred_times_whatever_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "tensorboard", Kept)
    monkeypatch.setattr(Kept, "said", [])
    followed = Trackers(["tensorboard"], "sst2", tmp_path, {"rank": 4, "targets": ("q", "v")})
    lines: list[str] = []
    progress = Progress("expert sst2", lines.append, followed)
    for step in range(1, 401):
        progress.step(step, 400, torch.tensor(float(step)), 10, 0.5)
    start, logged = Kept.said[:3], Kept.said[3:-1]
    assert start == [("sst2", str(tmp_path)), "start", {"rank": 4, "targets": "('q', 'v')"}]
    assert [step for step, _ in logged] == list(range(4, 401, 4)) and Kept.said[-1] == "finish"
    assert logged[0][1].keys() == {"loss", "learning_rate", "tokens_per_second"}
    assert logged[1][1]["loss"] == 6.5, "the mean since the last entry"
    assert len(lines) == 10 and "loss 20.500" in lines[0]


def test_an_unknown_or_missing_tracker_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LorafuseError, match="unknown tracker 'tensorbord'. Did you mean 'tensorboard'"):
        trackers.check(["tensorbord"])
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(LorafuseError, match="pip install wandb"):
        trackers.check(["wandb"])


def test_a_loss_that_is_no_number_ends_the_run() -> None:
    progress = Progress("expert sst2", lambda text: None)
    for step in range(1, 8):
        progress.step(step, 8, torch.tensor(1.0), 10, 0.5)
    with pytest.raises(LorafuseError, match="expert sst2: the loss is nan by step 8. Lower the learning"):
        progress.step(8, 8, torch.tensor(float("nan")), 10, 0.5)
