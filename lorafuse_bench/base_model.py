"""What methods ask of a loaded base: its text blocks, its modules, their shapes and the type they compute in."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool, LoraExpert
from lorafuse_bench.layers import is_linear, linear_shape
from lorafuse_bench.loading import load_model, skeleton
from lorafuse_bench.placement import computes_on, weights_of


class Base:
    """One base model, asked instead of guessed.

    `modules`: all modules by name, as they were before anything was fused. `layers`: the text model's
    transformer blocks, also where a vision tower has as many; `prefix`: their list's name.
    LorafuseError where the model has no list of blocks.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.modules: Mapping[str, nn.Module] = dict(model.named_modules())
        self.config = model.config.get_text_config()
        self.blocks = int(self.config.num_hidden_layers)
        self.prefix, self.layers = self._block_list()

    def _block_list(self) -> tuple[str, nn.ModuleList]:
        """The first list of as many modules as there are blocks, inside the decoder of text."""
        decoder = self.model.get_decoder()
        name = next(name for name, module in self.modules.items() if module is decoder)
        for inner, module in decoder.named_modules(prefix=name):
            if isinstance(module, nn.ModuleList) and len(module) == self.blocks:
                return inner, module
        raise LorafuseError(
            f"{type(self.model).__name__} has no list of {self.blocks} transformer blocks: it cannot be routed."
        )

    def block_of(self, name: str) -> int:
        """Index of the block that a module is in. Embeddings count as the first, anything else outside as the last."""
        if name.startswith(self.prefix + "."):
            return int(name.removeprefix(self.prefix + ".").partition(".")[0])
        return 0 if isinstance(self.modules.get(name), nn.Embedding) else self.blocks - 1

    def recompute(self) -> None:
        """Gradient checkpointing: for the backward pass each block keeps its input alone, and computes the rest again.

        The gradients are the same. It takes one more pass forward.
        """
        for layer in self.layers:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)

    def linear_maps(self) -> dict[str, nn.Module]:
        """The linear maps inside the blocks, by name."""
        return {
            name: module
            for name, module in self.modules.items()
            if name.startswith(self.prefix + ".") and is_linear(module)
        }

    def place_of(self, name: str) -> tuple[torch.device, torch.dtype]:
        """Device and type that a module computes in; of quantised weights, the model's own type."""
        tensors = [*self.modules[name].parameters(), *self.modules[name].buffers()]
        device = computes_on(self.modules[name]) or self.model.device
        wide = [t.dtype for t in tensors if t.dtype.is_floating_point and t.dtype.itemsize > 1]
        return device, wide[0] if wide else self.model.dtype

    def check(self, pool: ExpertPool) -> None:
        """LorafuseError naming the adapter unless every module it adapts is here, of its shape.

        What it copies of the base must equal the base's own, by value; not asked of a model without weights.
        """
        for name, stack in pool.modules.items():
            owner = next(e.name for e in pool.experts if name in e.factors)
            if name not in self.modules:
                raise LorafuseError(
                    f"adapter '{owner}' updates {name}, which the base model does not have. Use its own base."
                )
            module = self.modules[name]
            if isinstance(module, nn.Embedding) and module is not self.model.get_input_embeddings():
                raise LorafuseError(
                    f"adapter '{owner}' updates {name}: of embeddings only those of the input tokens can be fused."
                )
            shape = linear_shape(module, name)
            if shape != stack.shape:
                raise LorafuseError(
                    f"adapter '{owner}' updates {name} as {stack.shape[0]}x{stack.shape[1]}, the base model's is"
                    f" {shape[0]}x{shape[1]}. Use its own base."
                )
        if self.model.device.type != "meta":
            for expert in pool.experts:
                self._check_copies(expert)

    def _check_copies(self, expert: LoraExpert) -> None:
        for copy in expert.copies:
            owner = self.modules.get(copy.module, nn.Identity())
            with weights_of(owner):
                own = getattr(owner, copy.parameter, None)
                same = isinstance(own, Tensor) and _equal(copy.read(), own.detach())
            if not same:
                raise LorafuseError(
                    f"adapter '{expert.name}' brings its own {copy.module}.{copy.parameter}, and it is not the base's:"
                    " only what is added to the base can be fused. Train without changing or resizing it."
                )


def check_fit(folder: str | Path, pool: ExpertPool) -> PreTrainedModel:
    """The skeleton of the base in `folder`; LorafuseError as for `Base.check` where the experts do not fit it.

    Weights are read only where an adapter copies some, to compare them.
    """
    model = skeleton(folder)
    Base(model).check(pool)
    if any(expert.copies for expert in pool.experts):
        Base(load_model(folder)).check(pool)
    return model


def _equal(copy: Tensor, own: Tensor) -> bool:
    """Whether two tensors hold the same values, up to the rounding of the coarser of their types."""
    if copy.shape != own.shape or not copy.dtype.is_floating_point:
        return False
    coarse = min(copy.dtype, own.dtype, key=lambda dtype: dtype.itemsize)
    return torch.equal(copy.to(coarse), own.to("cpu", coarse))
