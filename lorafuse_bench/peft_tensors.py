"""adapter_model.safetensors of a LoRA adapter: its factors by module, checked, and the copies of base weights in it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lorafuse_bench.errors import LorafuseError

WEIGHTS = "adapter_model.safetensors"

Factors = Mapping[str, tuple[Tensor, Tensor]]
"""Module -> `(A (r, in), B (out, r))`. An embedding maps one-hot tokens: `in` counts its tokens."""

Shapes = Mapping[str, tuple[int, int, int]]
"""Module -> `(r, out, in)`."""

_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?:embedding_)?(?P<factor>[AB])(?:\.default)?(?:\.weight)?")
_COPY = re.compile(r"(?P<module>.+?)(?:\.base_layer)?\.(?P<parameter>weight|bias)")
# What torch.compile, FSDP and activation checkpointing put into the names of the modules they wrap.
_WRAPPERS = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class BaseCopy:
    """A parameter of the base that PEFT saved beside the factors, such as that of an adapted output layer."""

    file: Path
    key: str
    module: str
    parameter: str

    def read(self) -> Tensor:
        """The copy's values."""
        with safe_open(self.file, framework="pt") as opened:
            return opened.get_tensor(self.key)


def read_tensors(folder: Path, name: str) -> tuple[Factors, tuple[BaseCopy, ...]]:
    """The factors of a PEFT folder in fp32, and what it copies of the base, which is left in the file.

    LorafuseError names the adapter and the tensor that is missing, damaged, not finite, of no known kind or shape.
    """
    return _read(folder, name, lambda opened, key: _checked(opened.get_tensor(key), key, name))


def read_shapes(folder: Path, name: str) -> Shapes:
    """The shapes of a PEFT folder's factors, from the file's head alone; LorafuseError as for `read_tensors`."""

    def outline(opened: Any, key: str) -> Tensor:
        return _matrix(torch.empty(opened.get_slice(key).get_shape(), device="meta"), key, name)

    return shapes_of(_read(folder, name, outline)[0])


def shapes_of(factors: Factors) -> Shapes:
    """The shapes of factors."""
    return {module: (len(a), len(b), a.shape[1]) for module, (a, b) in factors.items()}


def _read(
    folder: Path, name: str, read: Callable[[Any, str], Tensor]
) -> tuple[Factors, tuple[BaseCopy, ...]]:
    """Factors as `read` gives them of the opened file and a key, and the copies."""
    file = _weights_file(folder, name)
    halves: dict[str, dict[str, Tensor]] = {}
    copies = []
    try:
        with safe_open(file, framework="pt") as opened:
            for key in sorted(opened.keys()):
                found = _parse(key, name)
                if isinstance(found, tuple):
                    module, parameter = found
                    copies.append(BaseCopy(file, key, module, parameter))
                elif halves.setdefault(found["module"], {}).get(found["factor"]) is None:
                    halves[found["module"]][found["factor"]] = read(opened, key)
                else:
                    raise LorafuseError(f"adapter '{name}': {key} is there twice. Save the adapter again.")
    except (SafetensorError, OSError) as error:
        raise LorafuseError(
            f"adapter '{name}': {file} is damaged ({error}). Restore or retrain it."
        ) from error
    return _paired(halves, name), tuple(copies)


def _weights_file(folder: Path, name: str) -> Path:
    file = folder / WEIGHTS
    if not file.is_file():
        pickles = sorted(p.name for suffix in ("bin", "pt", "pth", "pkl") for p in folder.glob(f"*.{suffix}"))
        found = f" ({', '.join(pickles)} is a pickle, which can run code)" if pickles else ""
        raise LorafuseError(f"adapter '{name}': no {file}{found}. Save it with safe_serialization=True.")
    return file


def _parse(key: str, name: str) -> re.Match[str] | tuple[str, str]:
    """A factor's `module` and `factor`, or module and parameter of a copy of the base's weights."""
    plain = _WRAPPERS.sub("", key).removeprefix("module.")
    if plain.startswith(_PREFIX):
        plain = plain.removeprefix(_PREFIX)
        factor = _FACTOR.fullmatch(plain)
        if factor is not None:
            return factor
        copy = _COPY.fullmatch(plain)
        if copy is not None and ".lora_" not in plain:
            return copy["module"], copy["parameter"]
    raise LorafuseError(
        f"adapter '{name}': unexpected tensor {key}. Only lora_A and lora_B of linear maps and embeddings are fused."
    )


def _checked(tensor: Tensor, key: str, name: str) -> Tensor:
    """A factor in fp32; LorafuseError unless it is a matrix of finite floating-point numbers."""
    if tensor.dtype not in _FLOATS:
        raise LorafuseError(
            f"adapter '{name}': {key} is of type {str(tensor.dtype).removeprefix('torch.')}."
            " Save it in float32, float16 or bfloat16."
        )
    single = _matrix(tensor, key, name).float()
    if not all(map(math.isfinite, single.aminmax())):  # one pass, in a fifth of the time of torch.isfinite
        raise LorafuseError(
            f"adapter '{name}': {key} holds NaN or infinity, or more than fp32 holds. Retrain or restore it."
        )
    return single


def _matrix(tensor: Tensor, key: str, name: str) -> Tensor:
    """The tensor; LorafuseError unless it is a matrix with entries."""
    if tensor.ndim != 2 or tensor.numel() == 0:
        raise LorafuseError(
            f"adapter '{name}': {key} has shape {list(tensor.shape)} and is not a matrix. Adapters of linear maps and"
            " embeddings are fused; one saved from ZeRO-3 or FSDP shards must be gathered before it is saved."
        )
    return tensor


def _paired(halves: Mapping[str, Mapping[str, Tensor]], name: str) -> Factors:
    if not halves:
        raise LorafuseError(f"adapter '{name}' is empty: its file holds no LoRA factors. Save it again.")
    for module, half in halves.items():
        if set(half) != {"A", "B"} or half["A"].shape[0] != half["B"].shape[1]:
            raise LorafuseError(
                f"adapter '{name}': lora_A and lora_B of {module} do not fit each other. Save it again."
            )
    return {module: (half["A"], half["B"]) for module, half in halves.items()}
