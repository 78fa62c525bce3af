"""What a training run is told: how long, how fast, on how much."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.limits import COUNT, LENGTH, NOT_NEGATIVE, PART, POSITIVE, SEED, SHARE, Limit, portion

ALL_LINEAR = "all-linear"
"""As PEFT's: every linear map but the output embedding."""

Decay = Literal["linear", "cosine", "constant", "stable"]


class Limited:
    """Settings whose numbers are checked when they are made: bad ones are refused before anything runs."""

    limits: ClassVar[dict[str, Limit]] = {}

    def __post_init__(self) -> None:
        """Raises LorafuseError naming every setting that is out of its limit."""
        given = {name: getattr(self, name) for name in self.limits}
        bad = [
            f"{name.replace('_', ' ')} {given[name]} is not {limit.words}"
            for name, limit in self.limits.items()
            if given[name] is not None and not limit.allows(given[name])
        ]
        if bad:
            raise LorafuseError(f"{'; '.join(bad)}. Change the setting.")


@dataclass(frozen=True)
class Schedule(Limited):
    """How long and how fast to train."""

    limits: ClassVar[dict[str, Limit]] = {
        "learning_rate": POSITIVE,
        "steps": COUNT,
        "batch_size": COUNT,
        "accumulation": COUNT,
        "warmup_share": SHARE,
        "decay_share": SHARE,
        "checkpoints": COUNT,
        "cutoff": LENGTH,
        "seed": SEED,
    }

    learning_rate: float = 1e-4
    steps: int = 1000
    batch_size: int = 8
    accumulation: int = 1
    """Portions a batch is computed in; the batch, the loss and the steps stay the same."""
    warmup_share: float = 0.05
    decay: Decay = "linear"
    """How the rate falls after the warm-up: to 0 in a line or a cosine, not at all, or at the very end (`stable`)."""
    decay_share: float = 0.05
    """Share of the steps at the end in which a `stable` rate falls."""
    checkpoints: int = 4
    """How many times a run is saved on its way."""
    cutoff: int = 512
    """Longest row in tokens; a longer prompt loses its middle."""
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        portion(self.batch_size, self.accumulation)

    def rate(self, step: int) -> float:
        """The learning rate of step `step`, counted from 0."""
        return self.learning_rate * self._share(step)

    def _share(self, step: int) -> float:
        warmup = round(self.warmup_share * self.steps)
        if step < warmup:
            return step / warmup
        if self.decay == "constant":
            return 1.0
        falling = round(self.decay_share * self.steps) if self.decay == "stable" else self.steps - warmup
        left = min(1.0, (self.steps - step) / max(1, falling))
        return (1 - math.cos(math.pi * left)) / 2 if self.decay == "cosine" else left


@dataclass(frozen=True)
class ExpertSettings(Schedule):
    """How every expert of a zoo is trained."""

    limits: ClassVar[dict[str, Limit]] = Schedule.limits | {
        "rank": COUNT,
        "alpha": POSITIVE,
        "dropout": PART,
        "rows": COUNT,
        "held_out": NOT_NEGATIVE,
        "epochs": POSITIVE,
    }

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    """Last parts of the names of the adapted modules, or ALL_LINEAR alone."""
    rows: int | None = None
    """Rows of the training split to use; all when None."""
    held_out: int = 0
    """Rows at the end of those that are left alone, for choosing settings by; at most a fifth of them."""
    epochs: float | None = None
    """Passes over the rows at most: where they are few, fewer steps than `steps`."""
    init: Literal["shared", "independent"] = "shared"
    """Whether all experts start from one A, so that averaging factors means something."""
    saved_as: Literal["float32", "bfloat16"] = "float32"
    """Type the factors are saved in; they train in float32."""

    def for_rows(self, rows: int) -> ExpertSettings:
        """These settings with the steps that a task of so many rows gets."""
        if self.epochs is None:
            return self
        return replace(self, steps=max(1, min(self.steps, math.ceil(self.epochs * rows / self.batch_size))))


@dataclass(frozen=True)
class AdapterSettings(Schedule):
    """How an adapter is trained: AdamW, linear warm-up, a constant rate, linear decay (MoORE, Table 7)."""

    limits: ClassVar[dict[str, Limit]] = Schedule.limits | {"epochs": POSITIVE, "rows": COUNT}

    learning_rate: float = 3e-4
    decay: Decay = "stable"
    epochs: float | None = 2.0
    """Passes over the rows; None to train for `steps`."""
    rows: int | None = None
    """Rows per task at most; all when None."""
    gradient_checkpointing: bool = False
    """Activations inside the blocks are computed again for the backward pass instead of kept."""
