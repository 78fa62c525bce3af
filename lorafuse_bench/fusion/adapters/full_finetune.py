"""full_finetune: every parameter of the base trained, the reference for adapters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from accelerate.utils import has_offloaded_params
from torch import Tensor, nn

from lorafuse_bench.base_model import Base
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion.adapters.trained import Place, TrainedAdapter, TrainedUpdate
from lorafuse_bench.fusion.base import option
from lorafuse_bench.fusion.papers import MOORE
from lorafuse_bench.fusion.registry import register
from lorafuse_bench.layers import Selection


class FullUpdate(TrainedUpdate):
    """A module's own parameters once more, to be trained: `y = module(x; θ')`.

    `made` holds what was made for other modules, so that weights that the base ties stay tied.
    """

    def __init__(self, base: nn.Module, made: dict[int, nn.Parameter]) -> None:
        super().__init__()
        if has_offloaded_params(base):
            raise LorafuseError(
                "full_finetune keeps all parameters in memory, and some of the base's are on disk. Give it more memory."
            )
        self.borrowed: dict[str, nn.Parameter] = {}
        for name, tensor in base.named_parameters(recurse=False):
            if id(tensor) in made:
                self.borrowed[name] = made[id(tensor)]
            else:
                wide = torch.promote_types(tensor.dtype, torch.float32)
                made[id(tensor)] = nn.Parameter(tensor.detach().to(wide, copy=True))
                self.register_parameter(name, made[id(tensor)])

    def reset(self, generator: torch.Generator) -> None:
        """Nothing to do: a copy is the base."""

    def output(self, base: nn.Module, x: Tensor) -> Tensor:
        parameters: dict[str, Tensor] = {**dict(self.named_parameters()), **self.borrowed}
        result: Tensor = torch.func.functional_call(base, parameters, (x,))
        return result


@register
@dataclass(frozen=True)
class FullFinetune(TrainedAdapter):
    """Full fine-tuning: all of the base's parameters are trained on all tasks at once; a reference, no adapter.

    `y = f(x; θ')`, θ' starting at the base's θ; tied weights stay tied, the zoo's base is not touched. Source:
    the first row of MoORE's Table 5. Parameters: the base's. Cost: none beside the base's; memory twice.
    """

    targets: str | None = option(None, "not for this method: it trains everything")

    name = "full_finetune"
    family = "reference"
    paper = f"{MOORE}, Table 5"

    def __post_init__(self) -> None:
        if self.targets is not None:
            raise ValueError("targets cannot be chosen, every parameter is trained.")

    def update(self, base: nn.Module, place: Place) -> TrainedUpdate:
        return FullUpdate(base, {})

    def attached(
        self,
        base: Base,
        tasks: int,
        selection: Selection,
        saved: Mapping[str, Tensor] | None = None,
    ) -> Iterator[tuple[str, TrainedUpdate]]:
        made: dict[int, nn.Parameter] = {}
        for name, module in base.modules.items():
            if next(module.parameters(recurse=False), None) is not None:
                yield name, FullUpdate(module, made)
