"""What adapted maps see, and how the loss depends on them, row by row: statistics of the experts for a fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lorafuse_bench.device import mixed_precision
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.layers import Update
from lorafuse_bench.training.examples import Example
from lorafuse_bench.training.loss import target_logits

SeeInputs = Callable[[str, Tensor], None]
SeeGradients = Callable[[str, Tensor, Tensor], None]


@torch.no_grad()
def visit_inputs(
    fused: FusedModel, updates: Mapping[str, Update], examples: Sequence[Example], see: SeeInputs
) -> None:
    """Call `see(module, x (tokens, in))` for every example and map that has an update, prompt and target together."""

    def hook(name: str, x: Tensor, y: Tensor) -> None:
        see(name, x)

    with _hooked(fused, updates, hook):
        for example in examples:
            fused.model(**_one(fused, example), use_cache=False)


def visit_gradients(
    fused: FusedModel,
    updates: Mapping[str, Update],
    examples: Sequence[Example],
    seed: int,
    see: SeeGradients,
) -> None:
    """Call `see(module, x (tokens, in), g (tokens, out))` for every example and map that has an update.

    `g` is the gradient of `Σ_t log p(y_t)` by the map's output, so `gᵀ x (out, in)` is that by its weights. The y_t
    are drawn from the model's own distribution at each target position, from `seed`.
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def hook(name: str, x: Tensor, y: Tensor) -> Tensor:
        probe = torch.zeros_like(y, requires_grad=True)
        found[name] = (x.detach(), probe)
        return y + probe.view_as(y)

    with _hooked(fused, updates, hook), torch.enable_grad():
        for example in examples:
            found.clear()
            labels = torch.tensor([example["labels"]], device=fused.model.device)
            logits, _ = target_logits(fused.model, labels, **_one(fused, example))
            scores = logits.float().log_softmax(-1)
            drawn = torch.multinomial(scores.detach().exp().cpu(), 1, generator=generator).to(scores.device)
            probes = [probe for _, probe in found.values()]
            slopes = torch.autograd.grad(scores.gather(-1, drawn).sum(), probes, allow_unused=True)
            for (name, (x, _)), slope in zip(found.items(), slopes, strict=True):
                if slope is not None:
                    see(name, x, slope.flatten(0, -2))


@contextmanager
def _hooked(
    fused: FusedModel, updates: Mapping[str, Update], see: Callable[..., Tensor | None]
) -> Iterator[None]:
    """`updates` in place; `see(name, x (tokens, in), y)` after every pass of a map, whose y becomes what it returns."""

    def hook_of(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], y: Tensor) -> Tensor | None:
            if not args[0].is_floating_point():
                raise LorafuseError(
                    f"{name} is an embedding: of what it sees no statistics are kept. Leave out experts that adapt it."
                )
            return see(name, args[0].flatten(0, -2), y)

        return hook

    fused.put(updates)
    handles = [fused.model.get_submodule(name).register_forward_hook(hook_of(name)) for name in updates]
    try:
        with mixed_precision(fused.model.device, fused.model.dtype):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _one(fused: FusedModel, example: Example) -> dict[str, Tensor]:
    ids = torch.tensor([example["input_ids"]], device=fused.model.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
