"""How a method that routes tokens scores the experts of a pool, token by token and layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from lorafuse_bench.analysis.prompts import read_in_batches
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion.base import Prompts
from lorafuse_bench.layers import FusedModule, GatedUpdate

Statistic = Callable[[Tensor, int], Tensor]
"""(scores `(tokens, N)`, index of the task's own expert) to numbers `(tokens, n)`."""
ROWS = 8


def gated_modules(fused: FusedModel) -> dict[str, FusedModule]:
    """The modules where the method in use scores experts, by name; LorafuseError where it scores none."""
    found = {
        name: module
        for name, module in fused.model.named_modules()
        if isinstance(module, FusedModule) and isinstance(module.update, GatedUpdate)
    }
    if not found:
        label = fused.method.label() if fused.method else "base"
        raise LorafuseError(
            f"method '{label}' scores no experts token by token. Name one that does, such as arrow."
        )
    return found


@torch.no_grad()
def mean_over_tokens(
    fused: FusedModel, prompts: Mapping[str, Sequence[Sequence[int]]], statistic: Statistic, batch: int = ROWS
) -> dict[str, Tensor]:
    """Task to `(layers, n)`: the mean of a statistic over all tokens of a task's prompts, in fp64.

    Hidden states are those of the model under the method in use; layers come as `gated_modules` has them.
    """
    found = {}
    for task, rows in prompts.items():
        own = fused.pool.index_of_task(task)
        total, tokens = torch.zeros(()), 0
        with _listening(fused) as held:
            for inputs in read_in_batches(fused, task, rows, batch):
                layers = [_of_tokens(held[name], inputs) for name in gated_modules(fused)]
                total = total + torch.stack([statistic(layer, own).double().sum(0) for layer in layers]).cpu()
                tokens += int(inputs.lengths.sum())
        found[task] = total / tokens
    return found


@torch.no_grad()
def scores_of(fused: FusedModel, task: str, row: Sequence[int]) -> Tensor:
    """`(layers, tokens, N)`: every layer's scores of one prompt's tokens."""
    with _listening(fused) as held:
        (inputs,) = read_in_batches(fused, task, [row], 1)
        return torch.stack([_of_tokens(held[name], inputs) for name in gated_modules(fused)]).cpu()


@contextmanager
def _listening(fused: FusedModel) -> Iterator[dict[str, Tensor]]:
    """Inside it, a forward pass leaves every layer's scores `(..., N)` here, by name."""
    held: dict[str, Tensor] = {}

    def hook(name: str, update: GatedUpdate) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def note(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            held[name] = update.scores(args[0])

        return note

    with ExitStack() as hooks:
        for name, module in gated_modules(fused).items():
            assert isinstance(module.update, GatedUpdate)
            handle = module.register_forward_pre_hook(hook(name, module.update))
            hooks.callback(handle.remove)
        yield held


def _of_tokens(scores: Tensor, inputs: Prompts) -> Tensor:
    """`(tokens, N)`: the scores of a batch's tokens without padding, row after row."""
    mask = inputs.mask
    if scores.shape[:-1].numel() != mask.numel():
        raise LorafuseError(
            "an adapted layer sees only some of each row's tokens: they cannot be told apart there."
        )
    return scores.reshape(*mask.shape, -1)[mask]
