"""Checkpoints of a training run: each one file, complete or not there at all."""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from lorafuse_bench.files import write_bytes

KEPT = 2
"""The newest, and one to fall back on."""

_NAME = re.compile(r"checkpoint-(\d+)\.pt")


def save(work: Path, step: int, state: dict[str, Any]) -> None:
    """Write the state after `step` steps into `work`; of older ones the newest stays.

    Raises LorafuseError when it cannot be written; those that are there stay then.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(work / f"checkpoint-{step}.pt", buffer.getvalue())
    for path in _newest_first(work)[KEPT:]:
        path.unlink()


def newest(work: Path) -> dict[str, Any] | None:
    """The newest state in `work` that can be read; None where there is none."""
    for path in _newest_first(work):
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError):
            continue
        return state
    return None


def _newest_first(work: Path) -> list[Path]:
    found = {path: _NAME.fullmatch(path.name) for path in work.glob("checkpoint-*.pt")}
    steps = {path: int(match.group(1)) for path, match in found.items() if match and path.is_file()}
    return sorted(steps, key=lambda path: -steps[path])
