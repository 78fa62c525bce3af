"""The most memory a stretch of work had in use."""

from __future__ import annotations

from pathlib import Path

import torch

_RESET = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def reset_peak(device: torch.device) -> None:
    """Start counting anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _RESET.exists():
        try:
            _RESET.write_text("5")  # Linux: forget the process's resident peak
        except OSError:
            return  # a locked-down container: peak_bytes then covers the process's whole life


def peak_bytes(device: torch.device) -> int | None:
    """Most bytes in use since `reset_peak`: allocated on an accelerator, else resident in the process.

    None where the system does not tell.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if not _STATUS.exists():
        return None
    for line in _STATUS.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
