"""The one loader of base models: nothing of a stranger's runs, and only weights that a zoo's hash covers are read."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import read_json
from lorafuse_bench.memory import free_bytes
from lorafuse_bench.remote_code import trusted
from lorafuse_bench.zoo.hashes import check_weights

_MOST = 4096
_PARTS = re.compile(r"(num|n)_.*(layer|expert|head)|layers$")


def load_config(folder: str | Path) -> PretrainedConfig:
    """A base's configuration; LorafuseError as for `check_base`, and where it is none of a causal language model."""
    check_base(Path(folder))
    return _loaded(AutoConfig, folder)


def positions_of(config: PretrainedConfig) -> int | None:
    """The most tokens that a base reads at once; None where it sets no bound."""
    found = getattr(config.get_text_config(), "max_position_embeddings", None)
    return found if isinstance(found, int) else None


def load_model(folder: str | Path, dtype: torch.dtype | str = "auto") -> PreTrainedModel:
    """A base in evaluation mode on the CPU, in `dtype`; quantised weights stay as they are saved."""
    load_config(folder)
    _check_room(Path(folder), dtype)
    model: PreTrainedModel = _loaded(AutoModelForCausalLM, folder, dtype=dtype, use_safetensors=True)
    return model.eval()


def _check_room(folder: Path, dtype: torch.dtype | str) -> None:
    """LorafuseError where the weights alone exceed the free memory, at the fewest bytes that they may take."""
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    least = stored * min(1.0, dtype.itemsize / 4) if isinstance(dtype, torch.dtype) else stored
    free = free_bytes(torch.device("cpu"))
    if free is not None and least > free:
        raise LorafuseError(
            f"the base in {folder} takes at least {least / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are"
            " free. Free some, use --dtype bfloat16, a quantised base, or a larger machine."
        )


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """A base's tokenizer."""
    check_base(Path(folder))
    return _loaded(AutoTokenizer, folder)


def skeleton(folder: str | Path, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """A base's modules and shapes without its weights, which are not read."""
    config = load_config(folder)
    with torch.device("meta"), loading(folder, config):
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype or config.dtype or torch.float32, trust_remote_code=trusted()
        )
    model.tie_weights()  # transformers 5.0 leaves that to loading
    return model


def check_base(folder: Path) -> None:
    """LorafuseError where a folder would run code without consent, or have weights read that a zoo's hash misses."""
    config = read_json(folder / "config.json", "Save the base again with save_pretrained.")
    check_weights(folder)
    named = config.get("transformers_weights")
    if named is not None:
        raise LorafuseError(
            f"{folder / 'config.json'} names weights of its own, transformers_weights={str(named)[:80]!r}, which no"
            " hash covers. Remove the entry."
        )
    _check_code(folder, config)
    for field, count in _counts(config):
        if count > _MOST:
            raise LorafuseError(
                f"{folder / 'config.json'}: {field} is {str(count)[:20]}, and no model has more than {_MOST}."
                " Correct it."
            )
    kernel = next(_kernels(config), None)
    if kernel is not None and not trusted():
        raise LorafuseError(
            f"{folder / 'config.json'} asks for {kernel[:80]}, code that transformers would fetch from the hub and run."
            " Remove the entry; if you trust it, add --trust-remote-code, or trust_remote_code=true to --model_args."
        )


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Every field of a configuration and its value, at any depth."""
    if isinstance(value, dict):
        yield from value.items()
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _entries(inner)


def _kernels(config: dict[str, Any]) -> Iterator[str]:
    """Entries such as `_attn_implementation` that name a repository of kernels."""
    for key, value in _entries(config):
        if "_implementation" in key and "/" in (named := json.dumps(value)):
            yield f"{key}={named}"


def _counts(config: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Numbers of parts, each of which transformers would make one by one."""
    for key, value in _entries(config):
        if isinstance(value, int) and _PARTS.search(key):
            yield key, value


def _check_code(folder: Path, config: dict[str, Any]) -> None:
    """LorafuseError where only code that the base brings could load it, unless the user trusts it."""
    path = folder / "tokenizer_config.json"
    tokenizer = read_json(path, "Save the tokenizer again.") if path.is_file() else {}
    known = str(config.get("model_type")) in transformers.CONFIG_MAPPING and hasattr(
        transformers, str(tokenizer.get("tokenizer_class") or "PreTrainedTokenizerFast")
    )
    if (config.get("auto_map") or tokenizer.get("auto_map")) and not known and not trusted():
        raise LorafuseError(
            f"the base in {folder} needs code of its own to load (auto_map), which may do anything."
            " If you trust it, add --trust-remote-code, or trust_remote_code=true to --model_args."
        )


class _Report(logging.Handler):
    """What transformers warns of while it loads."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def first(self, state: str) -> str | None:
        """The first weight in its table of weights that is in a state, such as MISSING, whatever its colour."""
        row = re.compile(rf"^(\S+)\s*\|\s*(?:\x1b\[[\d;]*m)*{state}\b", re.M)
        found = (row.search(record.getMessage()) for record in self.records)
        return next((match[1] for match in found if match), None)


@contextmanager
def loading(folder: str | Path, config: PretrainedConfig | None = None) -> Iterator[None]:
    """Whatever transformers raises for a folder that is no whole model, in one line.

    Weights that are not there are refused too: transformers would draw them at random, and only warn.
    """
    logger, report = logging.getLogger("transformers"), _Report()
    handlers, level = logger.handlers, logger.level
    logger.handlers = [report]
    logger.setLevel(logging.WARNING)
    try:
        yield
    except (LorafuseError, MemoryError):
        raise
    except Exception as error:  # a damaged configuration makes transformers stumble over anything
        raise _refusal(folder, error, report, config) from error
    finally:
        logger.handlers = handlers
        logger.setLevel(level)
    if absent := report.first("MISSING"):
        raise LorafuseError(
            f"the base in {folder} lacks weights that its config.json asks for, such as {absent}. Save it again."
        )
    for record in report.records:
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)


def _loaded(kind: Any, folder: str | Path, **settings: Any) -> Any:
    with loading(folder):
        return kind.from_pretrained(str(folder), trust_remote_code=trusted(), **settings)


def _refusal(
    folder: str | Path, error: Exception, report: _Report, config: PretrainedConfig | None
) -> LorafuseError:
    if config is not None and config.is_encoder_decoder:
        reason = "it is an encoder-decoder model, and only decoders are fused"
    elif other := report.first("MISMATCH"):
        reason = f"its weights have other shapes than its config.json says, such as {other}"
    else:
        reason = (" ".join(str(error).split()) or type(error).__name__)[:200].rstrip(".")
    return LorafuseError(f"the base in {folder} cannot be loaded: {reason}. Name another base, or repair it.")
