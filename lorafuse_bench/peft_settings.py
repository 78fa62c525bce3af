"""adapter_config.json of a LoRA adapter: which settings give a plain low-rank update, and its scaling."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import regex
import torch

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import read_json

CONFIG = "adapter_config.json"

# Fields that say what was adapted, where from or how it was trained. None of them changes what the factors mean.
_LABELS = frozenset(
    """
    task_type auto_mapping peft_version base_model_name_or_path revision inference_mode target_modules
    exclude_modules lora_dropout fan_in_fan_out layers_to_transform layers_pattern megatron_core runtime_config
    loftq_config eva_config corda_config lora_ga_config qalora_group_size ensure_weight_tying
    """.split()
)
# Fields that are read below.
_READ = frozenset({"r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"})
# Values known to leave the base as it is. PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA subtract their start from it.
_ALLOWED: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal", "mica"),
}
# Every other field, known or not, must be off: DoRA, aLoRA, KaSA, layer_replication, modules_to_save and so on.
_OFF: tuple[object, ...] = (None, False, [], {}, "")
_PATTERN_SECONDS = 5.0

Value = TypeVar("Value")


@dataclass(frozen=True)
class PeftSettings:
    """What the factors of an adapter need from its configuration: `ΔW_m = scaling(m) · B_m @ A_m`.

    `base` is the base model's name as the adapter tells it, None where it does not. Patterns map expressions
    over module names to values; the first that matches a whole name, or its end after a dot, holds (as in PEFT).
    """

    rank: int
    alpha: float
    rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    base: str | None

    @classmethod
    def load(cls, folder: Path, name: str) -> PeftSettings:
        """Read a folder's adapter_config.json.

        LorafuseError names the adapter and the first setting that cannot be fused exactly, or is no such value.
        """
        file = folder / CONFIG
        where = f"adapter '{name}': {file}"
        config = _config(file, name)
        _refuse_unknown(config, name, file)
        base = config.get("base_model_name_or_path")
        return cls(
            rank=_positive_int(config.get("r"), "r", where),
            alpha=_positive(config.get("lora_alpha"), "lora_alpha", where),
            rslora=_truth(config.get("use_rslora"), "use_rslora", where),
            rank_pattern={
                key: _positive_int(value, f"rank_pattern of {key}", where)
                for key, value in _table(config, "rank_pattern", where).items()
            },
            alpha_pattern={
                key: _positive(value, f"alpha_pattern of {key}", where)
                for key, value in _table(config, "alpha_pattern", where).items()
            },
            base=base if isinstance(base, str) and base else None,
        )

    def scalings(self, ranks: Mapping[str, int], name: str) -> dict[str, float]:
        """Each module's `alpha / r`, or `alpha / sqrt(r)` with rsLoRA, from the rank that its factors have.

        LorafuseError where a rank is not the configured one, or a scaling is 0 or infinite in fp32.
        """
        expected_ranks = Patterns(self.rank_pattern, f"adapter '{name}': rank_pattern")
        alphas = Patterns(self.alpha_pattern, f"adapter '{name}': alpha_pattern")
        scaling = {}
        for module, rank in ranks.items():
            expected = expected_ranks.of(module, self.rank)
            if rank != expected:
                raise LorafuseError(
                    f"adapter '{name}': {module} has rank {rank} in its file, {expected} in {CONFIG}."
                    " The two do not belong together: save the adapter again."
                )
            value = alphas.of(module, self.alpha) / (rank**0.5 if self.rslora else rank)
            single = float(torch.tensor(value, dtype=torch.float32))
            if not (math.isfinite(single) and single > 0):
                raise LorafuseError(
                    f"adapter '{name}': the scaling of {module} is {value:g}, which fp32 cannot hold."
                    " Correct lora_alpha or alpha_pattern."
                )
            scaling[module] = value
        return scaling


class Patterns(Generic[Value]):
    """Values by expressions over module names, matched within a bounded time.

    Reading and matching them gets five seconds for the whole adapter: one that backtracks without end is then refused.
    """

    def __init__(self, values: Mapping[str, Value], where: str) -> None:
        self.where = where
        self.deadline = time.monotonic() + _PATTERN_SECONDS
        self.compiled = [(self._compile(pattern), value) for pattern, value in values.items()]

    def _compile(self, pattern: str) -> regex.Pattern[str]:
        if time.monotonic() > self.deadline:
            raise LorafuseError(f"{self.where}: has too many expressions to read. Write fewer.")
        try:
            return regex.compile(rf"(.*\.)?({pattern})")
        except (regex.error, RecursionError, OverflowError, MemoryError) as error:
            raise LorafuseError(
                f"{self.where}: {pattern[:60]!r} is not an expression ({error}). Correct it."
            ) from error

    def of(self, module: str, default: Value) -> Value:
        """The value of the first expression that matches `module`, else `default`."""
        for pattern, value in self.compiled:
            try:
                if pattern.fullmatch(module, timeout=max(self.deadline - time.monotonic(), 0.001)):
                    return value
            except TimeoutError as error:
                raise LorafuseError(
                    f"{self.where}: {pattern.pattern[7:67]!r} takes too long to match. Write a simpler expression."
                ) from error
        return default


def _config(file: Path, name: str) -> dict[str, Any]:
    try:
        return read_json(file, "Give a folder in PEFT format.")
    except LorafuseError as error:
        raise LorafuseError(f"adapter '{name}': {error}") from error


def _refuse_unknown(config: Mapping[str, Any], name: str, file: Path) -> None:
    for key, value in config.items():
        told = value.lower() if key == "init_lora_weights" and isinstance(value, str) else value
        if key in _LABELS or key in _READ or (told in _ALLOWED.get(key, _OFF) and not _is_number(told)):
            continue
        shown = repr(value)
        hint = "Train it as plain LoRA."
        if key == "init_lora_weights":
            hint = "Where that changes the base, PEFT's save_pretrained makes a plain LoRA of it, given"
            hint += " path_initial_model_for_weight_conversion."
        raise LorafuseError(
            f"adapter '{name}' uses {key}={shown if len(shown) < 60 else shown[:57] + '...'}, which is not known to be"
            f" a plain low-rank update of the base ({file}). {hint}"
        )


def _is_number(value: object) -> bool:
    """Whether it is a number. In Python 0 and 1 equal False and True; in JSON they differ."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _table(config: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise LorafuseError(f"{where}: {key} must be an object. Save the adapter again.")
    return value


def _positive(value: object, what: str, where: str) -> float:
    if not _is_number(value) or not 0 < value < float("inf"):  # type: ignore[operator]
        raise LorafuseError(f"{where}: {what} must be a positive number, not {str(value)[:40]}. Correct it.")
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError as error:
        raise LorafuseError(f"{where}: {what} is too large for a number. Correct it.") from error


def _positive_int(value: object, what: str, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise LorafuseError(f"{where}: {what} must be a positive integer, not {str(value)[:40]}. Correct it.")
    return value


def _truth(value: object, what: str, where: str) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    raise LorafuseError(f"{where}: {what} must be true or false, not {str(value)[:40]}. Correct it.")
