"""What adapters derive from a base's weights alone, and slowly: made once for a base, kept in the user's cache.

All adapters on the base, and all their seeds, share it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from lorafuse_bench.files import write_bytes
from lorafuse_bench.zoo.locate import cache_root

SLOW_OPERATIONS = 1e11
"""Half a minute on one core."""


def is_slow(derived: Mapping[str, Tensor]) -> bool:
    """Whether decompositions take long: an SVD costs in proportion to the numbers in U and V times their rank."""
    sizes = (value.numel() * min(value.shape) for value in derived.values() if value.dim() == 2)
    return sum(sizes) >= SLOW_OPERATIONS


def cache_file(base_sha256: str, method: str, dtype: torch.dtype) -> Path:
    """Where the user's cache has them for the weights of this hash, read in `dtype`."""
    name = f"{base_sha256[:16]}-{method}-{str(dtype).removeprefix('torch.')}.safetensors"
    return cache_root() / "decompositions" / name


def cached(file: Path) -> dict[str, Tensor]:
    """By `<module>.<name>`; nothing where the file is not there or damaged, and all is computed again."""
    try:
        return load_file(file)
    except (OSError, SafetensorError):
        return {}


def keep(file: Path, derived: Mapping[str, Tensor], had: Mapping[str, Tensor]) -> None:
    """Add what was derived to the cache, where it is slow to make and `had` lacks some of it."""
    if is_slow(derived) and derived.keys() - had.keys():
        whole = {**had, **derived}
        write_bytes(file, save({key: value.cpu().contiguous() for key, value in whole.items()}))
