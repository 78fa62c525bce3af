"""The most memory a stretch of work had in use."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_RESET = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_MACHINE = Path("/proc/meminfo")
_CONTAINER = Path("/sys/fs/cgroup")


def reset_peak(device: torch.device) -> None:
    """Start counting again."""
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
    return (_peak_of(os.getpid()) or None) if _STATUS.exists() else None


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can still be taken: of an accelerator, else of the machine and of the container's limit.

    None where the system does not tell.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    if device.type != "cpu" or not _MACHINE.exists():
        return None
    told = {line.partition(":")[0]: line.split()[1] for line in _MACHINE.read_text().splitlines()}
    free = 1024 * (int(told.get("MemAvailable", 0)) + int(told.get("SwapFree", 0)))
    return min(free, _left_in_container() or free)


def _left_in_container() -> int | None:
    """What a container's limit leaves, files that can be dropped counted as free; None without a limit."""
    try:
        limit, used = ((_CONTAINER / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        told = dict(line.split() for line in (_CONTAINER / "memory.stat").read_text().splitlines())
        return int(limit) - int(used) + int(told["inactive_file"])
    except (OSError, ValueError, KeyError):  # no control group, or "max"
        return None


def tree_peak_bytes(ids: Sequence[int] | None = None) -> int | None:
    """Most resident bytes of some processes, added up; by default of this one and its running descendants.

    None where the system does not tell.
    """
    try:
        return sum(_peak_of(process) for process in (processes() if ids is None else ids)) or None
    except OSError:
        return None


def processes(root: int | None = None) -> list[int]:
    """Ids of a process, this one by default, and of all its running descendants; Linux only."""
    found = [os.getpid() if root is None else root]
    for process in found:  # grows while it is walked
        for children in Path(f"/proc/{process}/task").glob("*/children"):
            found += map(int, children.read_text().split())
    return found


def _peak_of(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), 0)


class Alive(TorchDispatchMode):
    """Counts the bytes of the tensors that are made inside this context and still there, views counted once.

    `bytes`: now; `peak`: the most at once. What a kernel uses inside itself is not seen. It is the same for tensors
    without values.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._sizes: dict[int, int] = {}

    def restart(self) -> int:
        """The bytes now, which `peak` begins with again."""
        self.peak = self.bytes
        return self.bytes

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.bytes += storage.nbytes()
            self.peak = max(self.peak, self.bytes)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.bytes -= self._sizes.pop(key)
