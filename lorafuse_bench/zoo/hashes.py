"""Hashes of everything that is read of a base or an adapter: weights and the files beside them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import read_json, sha256_file, sha256_files

WEIGHTS = "*.safetensors"
BESIDE = ("*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja", "*.py")
"""What transformers may read of a model's folder beside its weights: sizes, tokenizer, templates, code."""
_TEMPLATES = "additional_chat_templates/*.jinja"
_RECORDS = frozenset({"build.json", "source.json"})
"""How a folder was made; no model is read from these."""
ADAPTER_CONFIG = "adapter_config.json"
LORA_WEIGHTS = "adapter_model.safetensors"
_INDEX = "model.safetensors.index.json"


def weights_sha256(folder: str | Path) -> str:
    """Hash of a model folder's weights: over the names and hashes of its *.safetensors files.

    LorafuseError where there are none, saying how to make them of a pickle.
    """
    if not any(Path(folder).glob(WEIGHTS)):
        raise LorafuseError(
            f"the base in {folder} has no {WEIGHTS}; pickles (*.bin) can run code and are not read. Where you trust"
            f" one, convert it: AutoModelForCausalLM.from_pretrained({str(folder)!r}).save_pretrained(NEW_FOLDER)."
        )
    return sha256_files(Path(folder), WEIGHTS)


def base_files(folder: Path) -> dict[str, str]:
    """Name to sha256 of everything that a model is read from beside its weights."""
    found = {path for pattern in (*BESIDE, _TEMPLATES) for path in folder.glob(pattern)}
    return {
        path.relative_to(folder).as_posix(): sha256_file(path)
        for path in sorted(found)
        if path.is_file() and path.name not in _RECORDS
    }


def adapter_files(folder: Path) -> dict[str, str]:
    """Name to sha256 of what a LoRA adapter is read from beside its weights: its configuration.

    Hashed is what it says, whatever the order of its keys and targets, without `base_model_name_or_path`:
    the manifest says which base it is of, and a folder's name differs between machines.
    """
    path = folder / ADAPTER_CONFIG
    try:
        config: dict[str, Any] = read_json(path, "")
    except LorafuseError:  # the loader says what is wrong with it
        return {path.name: sha256_file(path)} if path.is_file() else {}
    config.pop("base_model_name_or_path", None)
    targets = config.get("target_modules")
    if isinstance(targets, list):  # PEFT writes a set, in any order
        config["target_modules"] = sorted(targets, key=str)
    return {path.name: hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()}


def check_files(
    folder: Path, found: Mapping[str, str], recorded: Mapping[str, str] | None, owner: str
) -> None:
    """LorafuseError naming the first file that is not the one recorded; nothing was recorded where None."""
    for name, sha256 in (recorded or {}).items():
        if found.get(name) != sha256:
            state = f"is another file: sha256 {found[name][:12]}" if name in found else "is missing"
            raise LorafuseError(
                f"{owner}: {folder / name} {state}, the manifest says {sha256[:12]}. Restore it, or describe the"
                " zoo as it is now with `lorafuse zoo index`."
            )


def check_weights(folder: Path) -> None:
    """LorafuseError where transformers would load weights that `weights_sha256` does not cover."""
    if (folder / ADAPTER_CONFIG).is_file():
        raise LorafuseError(
            f"{folder} holds an {ADAPTER_CONFIG}: transformers would load that adapter into the base."
            " Move it to a folder of its own."
        )
    if (folder / "model.safetensors").is_file() or not (folder / _INDEX).is_file():
        return
    shards = read_json(folder / _INDEX, "Restore it.").get("weight_map")
    named = set(shards.values()) if isinstance(shards, dict) else set()
    there = {path.name for path in folder.glob(WEIGHTS)}
    if not named or not named <= there:
        missing = ", ".join(sorted(map(str, named - there))[:3]) or "no file at all"
        raise LorafuseError(
            f"{folder / _INDEX} names {missing}, which this folder does not hold. Restore it."
        )


def check_alone(folder: Path, owner: str) -> None:
    """LorafuseError where other weights of the same adapter lie beside the file that is hashed and read."""
    others = {path.name for path in folder.glob(f"{Path(LORA_WEIGHTS).stem}*")} - {LORA_WEIGHTS}
    if others:
        raise LorafuseError(
            f"{owner}: {folder} holds {min(others)} beside {LORA_WEIGHTS}. Remove the one you do not need."
        )
