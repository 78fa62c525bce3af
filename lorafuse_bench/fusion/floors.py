"""The floor: no adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lorafuse_bench.fusion.base import FusionMethod, Law, Runtime
from lorafuse_bench.fusion.papers import RETHINKING
from lorafuse_bench.fusion.registry import register
from lorafuse_bench.layers import Update


@register
@dataclass(frozen=True)
class Base(FusionMethod):
    """The base model without any adapter: `y = Wx`.

    Every board's floor. Source: rethinking LoRA merging, section 4.2. Cost: none.
    """

    name = "base"
    family = "floor"
    fuses_experts = False
    paper = f"{RETHINKING}, section 4.2"

    @property
    def laws_broken(self) -> dict[Law, str]:
        return {"one expert is itself": "no expert is used"}

    def updates(self, runtime: Runtime) -> Mapping[str, Update]:
        return {}
