"""MoA: a router before every block names one expert for the whole sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion.base import Prompts, RowRouting, Runtime, option
from lorafuse_bench.fusion.fitted import Fitted, Fitting
from lorafuse_bench.fusion.papers import MOA, RETHINKING
from lorafuse_bench.fusion.registry import register
from lorafuse_bench.layers import BASE

Decision = Literal["last", "vote", "per_block"]
Pool = Literal["last", "mean"]
Training = Literal["post_hoc", "joint"]


@register
@dataclass(frozen=True)
class Moa(Fitted, RowRouting):
    """Mixture-of-LoRAs: routers pick one expert per sequence from the prompt alone.

    Router l: `logits_l = W2_l gelu(W1_l h_l + b1_l) + b2_l`, with `h_l (h,)` the input of block l at the
    last prompt token or its mean over the prompt. A routing pass over the prompt lets every block
    use its own router's choice; then `last` takes the last block's choice for all blocks, `vote` the
    choice of most blocks, `per_block` each block's own. Blocks whose router saw nothing on
    validation prompts stay unadapted in that pass and have no vote (before block 0 the last token of
    every structured prompt is the same ":"); under `per_block` they follow the first block that saw
    something. Sources: Feng et al. 2024; rethinking LoRA merging, section 3.3.
    Needs a trained router. Cost: one LoRA, and one more prefill with L small MLPs per prompt.
    """

    decision: Decision = option("last", "last, vote or per_block: which routers decide")
    pooling: Pool = option("last", "what routers read: the last prompt token, or the prompt's mean")
    training: Training = option(
        "post_hoc", "post_hoc: routers on frozen experts; joint: trained with their experts"
    )

    name = "moa"
    at_use: ClassVar[frozenset[str]] = frozenset({"decision"})
    renamed: ClassVar[Mapping[str, str]] = {"pool": "pooling"}
    paper = f"{MOA}; {RETHINKING}, section 3.3"

    @property
    def one_expert_per_sequence(self) -> bool:
        return self.decision != "per_block"

    def experts(self, runtime: Runtime) -> ExpertPool:
        own = runtime.artefact(self).pool
        if own is None:
            return runtime.pool
        return ExpertPool([own.experts[own.names.index(name)] for name in runtime.pool.names])

    def made_by(self, zoo: str) -> str | None:
        if self.training == "post_hoc":
            return None
        return f"lorafuse train router --training joint --pooling {self.pooling} --out {zoo}"

    def fit(self, fitting: Fitting) -> dict[str, Tensor]:
        if self.training == "joint":
            raise LorafuseError(
                f"method 'moa': training=joint trains experts too. Use `{self.made_by('ZOO')}`."
            )
        return fitting.routers(self.pooling)

    def serves(self, fitted: Sequence[str], used: Sequence[str]) -> bool:
        """Outputs of experts that are not there are left out."""
        return set(used) <= set(fitted)

    def select(self, runtime: Runtime, prompts: Prompts) -> Tensor:
        router = runtime.artefact(self)
        columns = [router.experts.index(name) for name in runtime.pool.names]
        blocks = router.settings["informative_blocks"]
        device = prompts.input_ids.device
        index = torch.full((len(prompts.tasks), runtime.base.blocks), BASE, device=device)
        logits: dict[int, Tensor] = {}

        def visit(block: int, hidden: Tensor) -> None:
            if block in blocks:
                h = pool_hidden(hidden, prompts, self.pooling)
                logits[block] = router_logits(router.tensors, block, h)[:, columns]
                runtime.selection.set_block(block, logits[block].argmax(-1))

        runtime.selection.set(index)
        runtime.visit_blocks(prompts, visit)
        return decide([logits[b] for b in blocks], blocks, runtime.base.blocks, self.decision)


def router_logits(tensors: Mapping[str, Tensor], block: int, h: Tensor) -> Tensor:
    """`(rows, N)` logits of one block's router for `h (rows, h)`: a two-layer MLP with GELU."""
    hidden = F.gelu(F.linear(h.float(), tensors["w1"][block], tensors["b1"][block]))
    return F.linear(hidden, tensors["w2"][block], tensors["b2"][block])


def pool_hidden(hidden: Tensor, prompts: Prompts, pool: Pool) -> Tensor:
    """`(rows, h)` from `hidden (rows, tokens, h)`: the last prompt token, or the mean over the prompt."""
    if pool == "last":
        return hidden[torch.arange(hidden.shape[0], device=hidden.device), prompts.lengths - 1]
    mask = prompts.mask[..., None].to(hidden.dtype)
    return (hidden * mask).sum(1) / mask.sum(1)


def decide(logits: Sequence[Tensor], blocks: Sequence[int], n_blocks: int, decision: Decision) -> Tensor:
    """Expert per row and block `(rows, n_blocks)` from the `(rows, N)` logits of the deciding blocks.

    A tied vote goes to the expert with the larger summed probability among the tied, in fp64: in fp32 the
    probabilities of two sure routers are equal.
    """
    choices = torch.stack([layer.argmax(-1) for layer in logits])
    if decision == "per_block":
        position = [
            max((i for i, b in enumerate(blocks) if b <= block), default=0) for block in range(n_blocks)
        ]
        return choices[position].T.contiguous()
    if decision == "last":
        choice = choices[-1]
    else:
        votes = F.one_hot(choices, logits[0].shape[-1]).sum(0)
        probability = torch.stack(list(logits)).double().softmax(-1).mean(0)
        choice = (votes + probability.clamp(max=0.999)).argmax(-1)
    return choice[:, None].expand(-1, n_blocks).clone()
