"""Curves of a training run in TensorBoard or Weights & Biases, through accelerate's trackers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from lorafuse_bench.errors import LorafuseError, unknown

PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}


def check(names: Sequence[str]) -> None:
    """LorafuseError for an unknown tracker, or one whose package is not installed."""
    for name in names:
        if name not in PACKAGES:
            raise unknown("tracker", name, PACKAGES)
        if not any(find_spec(package) for package in PACKAGES[name]):
            raise LorafuseError(f"--report-to {name}: the package is missing. Run `pip install {name}`.")


class Trackers:
    """The trackers of one run, each with a name of its own; none is a run that nobody follows."""

    def __init__(self, names: Sequence[str], run: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self.trackers = []
        for name in names:
            kind = LOGGER_TYPE_TO_CLASS[name]
            where = {"logging_dir": str(folder)} if kind.requires_logging_directory else {}
            tracker = kind(run, **where)
            tracker.start()
            tracker.store_init_configuration({key: _plain(value) for key, value in settings.items()})
            self.trackers.append(tracker)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Enter values after a step."""
        for tracker in self.trackers:
            tracker.log(dict(values), step=step)

    def finish(self) -> None:
        """Write the rest."""
        for tracker in self.trackers:
            tracker.finish()


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float) else str(value)
