"""Where a model computes and in which type: one rule for every command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from lorafuse_bench.errors import LorafuseError, unknown
from lorafuse_bench.files import read_json, regular_files

AUTO = "auto"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """Where a model computes, and in which type."""

    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(cls, device: str, dtype: str, folder: str | Path) -> Compute:
        """What `device` and `dtype`, each a name or `auto`, mean for the checkpoint in `folder`."""
        chosen = device_of(device)
        return cls(chosen, dtype_of(dtype, chosen, stored_dtype(folder)))

    def record(self) -> dict[str, str]:
        """As manifests record it."""
        return {"device": self.device.type, "dtype": str(self.dtype).removeprefix("torch.")}


def mixed_precision(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Products in `dtype` where it has 16 bits, so that factors in fp32 serve a base in bf16; else as they are."""
    return torch.autocast(device.type, dtype, enabled=dtype in (torch.bfloat16, torch.float16))


def device_of(name: str = AUTO) -> torch.device:
    """The device called `name`; `auto` is the accelerator where there is one, else the CPU.

    Raises LorafuseError for a name torch does not know and for a device this machine does not have.
    """
    if name == AUTO:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:120]
        raise LorafuseError(
            f"device '{name}' cannot be used: {reason} Use {AUTO}, cpu, or cuda where there is one."
        ) from error
    if device.type == "meta":
        raise LorafuseError(f"device '{name}' computes nothing. Use {AUTO}, cpu or cuda.")
    return device


def dtype_of(name: str, device: torch.device, stored: torch.dtype) -> torch.dtype:
    """The type to compute in; `auto` is the checkpoint's own, `stored`, where the device computes in it fast.

    A CPU computes 16-bit floats fast only with instructions for bfloat16; any other gets float32.
    """
    if name != AUTO:
        if name not in DTYPES:
            raise unknown("dtype", name, (AUTO, *DTYPES))
        return DTYPES[name]
    fast = device.type != "cpu" or (stored is torch.bfloat16 and cpu_has_bfloat16())
    return stored if fast and stored in DTYPES.values() else torch.float32


def cpu_has_bfloat16() -> bool:
    """Whether the CPU has instructions for products of bfloat16 (AVX512-BF16 or AMX)."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, check, bool)()) for check in checks)


def stored_dtype(folder: str | Path) -> torch.dtype:
    """The type a checkpoint's weights are stored in: as its config.json says, else that of its first float tensor."""
    path = Path(folder) / "config.json"
    config = read_json(path, "Save the base again with save_pretrained.") if path.is_file() else {}
    named = config.get("dtype") or config.get("torch_dtype")
    if named in DTYPES:
        return DTYPES[named]
    for file in regular_files(Path(folder), "*.safetensors"):
        with safe_open(file, "pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118  not a mapping
                dtype = tensors.get_slice(key)[:0].dtype
                if dtype.is_floating_point:
                    return dtype
    return torch.float32
