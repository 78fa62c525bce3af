"""Mistakes that cost too much: each is the mean of the experts, at a price that is not declared."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mistakes import mistake
from torch import Tensor

from lorafuse_bench.fusion.base import FusionMethod
from lorafuse_bench.layers import AddedUpdate


class Dear(AddedUpdate):
    """The mean of updates, from the products of each."""

    def __init__(self, stack: Any) -> None:
        super().__init__()
        self.register_buffer("products", stack.B @ stack.A, persistent=False)

    @property
    def size(self) -> int:
        return self.products.numel()  # type: ignore[operator,return-value]


class Each(Dear):
    """Every expert's output for every token, side by side."""

    size = 0  # type: ignore[assignment]

    def add_to(self, y: Tensor, x: Tensor) -> Tensor:
        wide = torch.einsum("noi,bti->btno", self.products, x).repeat(1, 1, 9, 1)
        return y + wide[:, :, : len(self.products)].mean(2)  # type: ignore[arg-type]


class Thrice(Dear):
    """The same product many times over."""

    size = 0  # type: ignore[assignment]

    def add_to(self, y: Tensor, x: Tensor) -> Tensor:
        for _ in range(9):
            added = torch.stack([F.linear(x, product) for product in self.products]).mean(0)  # type: ignore[union-attr]
        return y + added


class OneByOne(Dear):
    """A loop over tokens."""

    size = 0  # type: ignore[assignment]

    def add_to(self, y: Tensor, x: Tensor) -> Tensor:
        mean = self.products.mean(0)  # type: ignore[operator]
        rows = [F.linear(token, mean) for token in x.flatten(0, 1).split(1) for _ in range(24)][::24]
        return y + torch.cat(rows).view(y.shape)


class Stored(Dear):
    """The products of all experts kept."""

    def add_to(self, y: Tensor, x: Tensor) -> Tensor:
        return y + F.linear(x, self.products.mean(0))  # type: ignore[operator]


def updates_of(kind: type[Dear]) -> Any:
    return lambda self, runtime: {m: kind(stack) for m, stack in runtime.pool.modules.items()}


for what, by, kind in (
    ("a full matrix of every expert kept", "parameters_are_as_declared", Stored),
    ("every expert's output built for every token", "memory_is_as_declared", Each),
    ("the same product computed again and again", "operations_are_as_declared", Thrice),
    ("a loop over tokens", "time_is_as_declared", OneByOne),
):
    mistake(what, by, FusionMethod, family="merging", updates=updates_of(kind))
