"""Where the parts of a base compute that `device_map` spreads over devices, or leaves in part on disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from accelerate.utils import align_module_device, has_offloaded_params
from torch import nn


def computes_on(module: nn.Module) -> torch.device | None:
    """Where a module computes, which is where offloaded weights are brought for a pass; None without tensors."""
    for part in module.modules():
        if has_offloaded_params(part):
            return torch.device(part._hf_hook.execution_device)  # type: ignore[union-attr, arg-type]
    first = next(chain(module.parameters(), module.buffers()), None)
    return None if first is None else first.device


@contextmanager
def weights_of(module: nn.Module) -> Iterator[None]:
    """Inside, a module's own weights can be read, offloaded ones too."""
    with align_module_device(module):
        yield
