"""What a training run is told: how long, how fast, on how much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train."""

    learning_rate: float = 1e-4
    steps: int = 1000
    batch_size: int = 8
    warmup_share: float = 0.05
    checkpoints: int = 4
    """How many times a run is saved on its way."""
    cutoff: int = 512
    """Longest row in tokens; a longer prompt loses its beginning."""
    seed: int = 0


@dataclass(frozen=True)
class ExpertSettings(Schedule):
    """How every expert of a zoo is trained."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    rows: int | None = None
    """Rows of the training split to use; all when None."""
    init: Literal["shared", "independent"] = "shared"
    """Whether all experts start from one A, so that averaging factors means something."""
