"""Routers of tokens with one mistake each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from mistakes import SOUND, Body, method, mistake
from torch import Tensor

from lorafuse_bench.fusion.base import (
    FusionMethod,
    Runtime,
    option,
)
from lorafuse_bench.layers import GatedUpdate, Update

# --- gates ---------------------------------------------------------------------------------------

Weigh = Callable[[Tensor], Tensor]


def length(hidden: Tensor, probed: Tensor) -> Tensor:
    """`‖A_i x‖²`, in the pool's factors: not gauge invariant, but these toys need not be."""
    return hidden.square().sum(-2)


def soft(scores: Tensor) -> Tensor:
    return scores.softmax(-1)


def gated(weigh: Weigh = soft, score: Any = length, kind: type[GatedUpdate] = GatedUpdate) -> Body:
    """A router of gates per token."""

    def updates(self: Any, runtime: Runtime) -> Mapping[str, Update]:
        made = {}
        for m, s in runtime.pool.modules.items():
            absent = [rank == 0 for rank in s.ranks]
            made[m] = kind(s.A, s.B, score, weigh, absent)
        return made

    broken = {
        "gauge (A, B) -> (RA, BR⁻¹)": "scores are of A alone",
    }
    return {"updates": updates, "family": "routing", "absent_experts": "no candidates", "laws_broken": broken}


SOUND.append(method(FusionMethod, gated()))


def routed(
    what: str, by: str, weigh: Weigh = soft, options: Mapping[str, Any] | None = None, **changes: Any
) -> None:
    kinds = {key: changes.pop(key) for key in ("score", "kind") if key in changes}
    mistake(what, by, FusionMethod, options, **(gated(weigh, **kinds) | changes))


def _top(scores: Tensor, k: int) -> Tensor:
    values, index = scores.topk(min(k, scores.shape[-1]), dim=-1)
    return torch.zeros_like(scores).scatter(-1, index, values.softmax(-1))


def _kept_of_all(scores: Tensor) -> Tensor:
    gates = scores.softmax(-1)
    return gates * (gates >= gates.topk(2, dim=-1).values[..., 1:])


def _k_plus_one(self: Any, runtime: Runtime) -> Mapping[str, Update]:
    return gated(lambda scores: _top(scores, self.k + 1))["updates"](self, runtime)


routed("softmax over the tokens", "gates_are_shares", lambda scores: scores.softmax(1))
routed("softmax over the rows", "gates_are_shares", lambda scores: scores.softmax(0))
routed("top-k not renormalised", "gates_are_shares", _kept_of_all)
routed("gates divided by k, not by their sum", "gates_are_shares", lambda scores: _kept_of_all(scores) / 2)
routed("a sigmoid taken for shares", "gates_are_shares", lambda scores: scores.sigmoid())
routed(
    "one expert too many",
    "k_experts_are_mixed",
    options={"k": option(1, "experts mixed")},
    updates=_k_plus_one,
)
routed(
    "exponentials that overflow", "extremes_stay_finite", lambda s: s.exp() / s.exp().sum(-1, keepdim=True)
)
routed(
    "gates from the last token", "later_tokens_change_nothing_earlier", lambda s: soft(s[:, -1:].expand_as(s))
)
routed(
    "gates from the mean over tokens",
    "later_tokens_change_nothing_earlier",
    lambda s: soft(s.mean(1, keepdim=True).expand_as(s)),
)
routed(
    "gates from the first token of a pass",
    "texts_are_those_of_whole_passes",
    lambda s: soft(s[:, :1].expand_as(s)),
)
routed(
    "gates from the batch's mean",
    "scores_hang_on_no_companion",
    lambda s: soft(s.mean(0, keepdim=True).expand_as(s)),
)


class Absentless(GatedUpdate):
    """Takes experts that do not adapt the module for candidates."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args[:4], [False] * len(args[4]))


class Swapped(GatedUpdate):
    """The B's of the first two experts exchanged."""

    def __init__(self, A: Tensor, B: Tensor, *args: Any) -> None:
        super().__init__(A, B[[1, 0, 2]] if len(B) > 2 else B, *args)


class Unscaled(GatedUpdate):
    """Each expert's B brought to one length."""

    def __init__(self, A: Tensor, B: Tensor, *args: Any) -> None:
        super().__init__(A, B / B.norm(dim=(1, 2), keepdim=True).clamp(min=1e-9), *args)


class Stale(GatedUpdate):
    """Gates of the first batch kept."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        weigh, kept = self.weigh, []

        def once(scores: Tensor) -> Tensor:
            kept.append(weigh(scores).mean((0, 1)))
            return kept[0].expand_as(scores)

        self.weigh = once


class Wide(GatedUpdate):
    """Gives fp32 on any base."""

    def add_to(self, y: Tensor, x: Tensor) -> Tensor:
        return super().add_to(y, x).float()


class Writing(GatedUpdate):
    """Halves its input, in place, while it works."""

    def add_to(self, y: Tensor, x: Tensor) -> Tensor:
        return super().add_to(y, x.mul_(0.5)) * 1.0


class Counting(GatedUpdate):
    """Weighs tokens by their place in the pass."""

    def add_to(self, y: Tensor, x: Tensor) -> Tensor:
        place = torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[:, None] / 4
        return y + place * (super().add_to(y.clone(), x) - y)


routed("absent experts are candidates", "absent_experts_are_as_declared", kind=Absentless)
routed("experts swapped in every layer", "each_gate_weighs_its_own_expert", kind=Swapped)
routed("each expert's length lost", "each_gate_weighs_its_own_expert", kind=Unscaled)
routed("stale cache across batches", "nothing_is_kept_between_batches", kind=Stale)
routed("fp32 out of a bf16 layer", "runs_in_bf16", kind=Wide)
routed("hidden states written to", "inputs_are_left_alone", kind=Writing)
routed("tokens told by their place in a pass", "texts_are_those_of_whole_passes", kind=Counting)
