"""How methods with one mistake are made, and what is known of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lorafuse_bench.experts import ExpertPool, ModuleStack
from lorafuse_bench.fusion.base import (
    FusionMethod,
    Merge,
    Merged,
)

DOC = "A mean of updates. Cost: one LoRA."
CATCHES: dict[str, tuple[type[FusionMethod], str]] = {}
"""Mistake -> (the method that makes it, the check that must catch it)."""
SOUND: list[type[FusionMethod]] = []
"""The same methods without a mistake."""

Body = dict[str, Any]


def method(
    parent: type[FusionMethod], body: Body, options: Mapping[str, Any] | None = None
) -> type[FusionMethod]:
    """A method class of a body, with `options` of whole numbers."""
    fields = {"__annotations__": dict.fromkeys(options or {}, int)} | dict(options or {})
    given = {"__doc__": DOC, "name": "broken", "paper": "none", "__module__": __name__}
    return dataclass(frozen=True)(type("Broken", (parent,), given | fields | body))


def mistake(
    what: str, by: str, parent: type[FusionMethod], options: Mapping[str, Any] | None = None, **body: Any
) -> None:
    CATCHES[what] = (method(parent, body, options), by)


Deltas = list[Tensor]
Join = Callable[[Deltas, ExpertPool], Tensor]


def dense(stack: ModuleStack) -> Deltas:
    """The experts' updates `(out, in)`."""
    return [b @ a for a, b in zip(stack.A, stack.B, strict=True)]


def joined(join: Join) -> Body:
    """A `fuse` that joins each module's dense updates."""

    def fuse(self: Any, pool: ExpertPool) -> Merged:
        return Merged(dense={m: join(dense(stack), pool) for m, stack in pool.modules.items()})

    return {"fuse": fuse}


def mean(deltas: Deltas, pool: ExpertPool) -> Tensor:
    return torch.stack(deltas).mean(0)


def merged(what: str, by: str, join: Join, options: Mapping[str, Any] | None = None, **body: Any) -> None:
    mistake(what, by, Merge, options, **joined(join), **body)


def fused(what: str, by: str, fuse: Callable[[Any, ExpertPool], Merged], **body: Any) -> None:
    mistake(what, by, Merge, fuse=fuse, **body)


def factors(pool: ExpertPool, change: Callable[[ModuleStack], tuple[Tensor, Tensor]]) -> Merged:
    return Merged({m: change(stack) for m, stack in pool.modules.items()})
