"""Merges with one mistake each."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from mistakes import SOUND, Deltas, Join, dense, factors, fused, joined, mean, merged, method, mistake
from torch import Tensor

from lorafuse_bench.experts import ExpertPool, ModuleStack
from lorafuse_bench.fusion.base import (
    Merge,
    Merged,
    Runtime,
    option,
)
from lorafuse_bench.layers import Update

SOUND.append(method(Merge, joined(mean)))

# --- sums and means ------------------------------------------------------------------------------

merged("sum instead of mean", "copies_of_one_expert_are_it", lambda d, p: torch.stack(d).sum(0))
merged("divided by N twice", "copies_of_one_expert_are_it", lambda d, p: mean(d, p) / len(d))
merged("divided by N + 1", "one_expert_is_itself", lambda d, p: torch.stack(d).sum(0) / (len(d) + 1))
merged("the last expert left out", "order_of_the_experts", lambda d, p: mean(d[:-1] or d, p))
merged("the first expert counted twice", "order_of_the_experts", lambda d, p: mean([d[0], *d], p))
merged("transposed where square", "one_expert_is_itself", lambda d, p: _square_transposed(mean(d, p)))
merged("clipped", "scale_of_the_updates", lambda d, p: mean(d, p).clamp(-0.5, 0.5))
merged("absolute values", "sign_of_the_updates", lambda d, p: torch.stack(d).abs().mean(0))
merged("a constant added", "zero_updates_give_the_base", lambda d, p: mean(d, p) + 1e-2)
merged("accumulated in bf16", "fuses_in_fp32", lambda d, p: sum(x.bfloat16() / len(d) for x in d).float())
merged("accumulated in fp16", "fuses_in_fp32", lambda d, p: sum(x.half() / len(d) for x in d).float())
merged("divided by a norm that may be 0", "extremes_stay_finite", lambda d, p: _unit_mean(d))
merged("weighed by rank with its padding", "unequal_ranks", lambda d, p: _by_rank(d, p))


def _square_transposed(x: Tensor) -> Tensor:
    return x.T if x.shape[0] == x.shape[1] else x


def _unit_mean(deltas: Deltas) -> Tensor:
    length = sum(d.norm() for d in deltas) / len(deltas)
    return torch.stack([d / d.norm() for d in deltas]).mean(0) * length


def _by_rank(deltas: Deltas, pool: ExpertPool) -> Tensor:
    ranks = [len(next(iter(e.factors.values()))[0]) for e in pool.experts]
    return sum(r * d for r, d in zip(ranks, deltas, strict=True)) / sum(ranks)  # type: ignore[return-value]


def _unscaled(self: Any, pool: ExpertPool) -> Merged:
    return factors(
        pool,
        lambda s: (
            s.A.flatten(0, 1),
            (s.B / s.scaling[:, None, None]).transpose(0, 1).flatten(1) / len(pool),
        ),
    )


def _alpha_over_rank(self: Any, pool: ExpertPool) -> Merged:
    """rsLoRA's alpha/sqrt(r) taken for alpha/r."""
    right = torch.tensor([e.alpha / e.rank for e in pool.experts])

    def change(s: ModuleStack) -> tuple[Tensor, Tensor]:
        b = s.B * (right / s.scaling)[:, None, None]
        return s.A.flatten(0, 1), b.transpose(0, 1).flatten(1) / len(pool)

    return factors(pool, change)


def _scaled_twice(self: Any, pool: ExpertPool) -> Merged:
    return factors(
        pool,
        lambda s: (
            s.A.flatten(0, 1),
            (s.B * s.scaling[:, None, None]).transpose(0, 1).flatten(1) / len(pool),
        ),
    )


def _before(self: Any, pool: ExpertPool) -> Merged:
    return factors(pool, lambda s: (s.A.mean(0), s.B.mean(0)))


fused("scale dropped", "alphas_and_rslora", _unscaled)
fused("alpha/r also for rsLoRA", "alphas_and_rslora", _alpha_over_rank)
fused("scaled twice", "alphas_and_rslora", _scaled_twice)
fused("factors combined, not said", "gauge", _before)
merged(
    "a law declared broken that holds", "gauge", mean, laws_broken={"gauge (A, B) -> (RA, BR⁻¹)": "no reason"}
)

# --- where experts work --------------------------------------------------------------------------


def _present_only(self: Any, pool: ExpertPool) -> Merged:
    return Merged(
        dense={
            m: sum(dense(s)) / sum(rank > 0 for rank in s.ranks)  # type: ignore[misc]
            for m, s in pool.modules.items()
        }
    )


def _common_only(self: Any, pool: ExpertPool) -> Merged:
    return Merged(dense={m: mean(dense(s), pool) for m, s in pool.modules.items() if all(s.ranks)})


def _one_more(self: Any, pool: ExpertPool) -> Merged:
    whole = {m: mean(dense(s), pool) for m, s in pool.modules.items()}
    return Merged(dense=whole | {"model.layers.0.self_attn.o_proj": torch.ones(32, 32)})


fused("absent experts not counted", "absent_experts_are_as_declared", _present_only)
fused("modules that only some adapt left out", "modules_without_experts_stay_the_bases", _common_only)
fused("a module that nobody adapts updated", "modules_without_experts_stay_the_bases", _one_more)

# --- what must be left alone ---------------------------------------------------------------------


def _pool_written(self: Any, pool: ExpertPool) -> Merged:
    return Merged(dense={m: (s.B.div_(len(pool)) @ s.A).sum(0) for m, s in pool.modules.items()})


def _experts_written(self: Any, pool: ExpertPool) -> Merged:
    for expert in pool.experts:
        for a, _ in expert.factors.values():
            a.mul_(0.5)
    return Merged(dense={m: mean(dense(s), pool) for m, s in pool.modules.items()})


def _base_written(self: Any, runtime: Runtime) -> Mapping[str, Update]:
    for m, stack in runtime.pool.modules.items():
        runtime.base.modules[m].weight.data += mean(dense(stack), runtime.pool)  # type: ignore[union-attr,operator]
    return {}


fused("pool mutated", "inputs_are_left_alone", _pool_written)
fused("experts mutated", "inputs_are_left_alone", _experts_written)
mistake("base mutated", "inputs_are_left_alone", Merge, updates=_base_written, **joined(mean))


def _after(side_effect: Callable[[], object]) -> Join:
    def join(deltas: Deltas, pool: ExpertPool) -> Tensor:
        side_effect()
        return mean(deltas, pool)

    return join


def _thinned(self: Any, pool: ExpertPool, generator: torch.Generator | None) -> Merged:
    kept = {m: mean(dense(s), pool) for m, s in pool.modules.items()}
    return Merged(dense={m: x * (torch.rand(x.shape, generator=generator) < 0.5) for m, x in kept.items()})


def _clock(self: Any, pool: ExpertPool) -> Merged:
    with torch.random.fork_rng():
        return _thinned(self, pool, None)


merged("torch's global seed set", "global_random_state_is_left_alone", _after(lambda: torch.manual_seed(0)))
merged(
    "numpy's global generator drawn from",
    "global_random_state_is_left_alone",
    _after(lambda: np.random.rand()),
)
merged("Python's global generator drawn from", "global_random_state_is_left_alone", _after(random.random))
fused("drawn from where the global generator stands", "repeats_bit_for_bit", _clock)
mistake(
    "seed ignored",
    "seed_makes_a_difference",
    Merge,
    {"seed": option(0, "seed of the draw")},
    fuse=lambda self, pool: _thinned(self, pool, torch.Generator().manual_seed(0)),
)

_KEPT: dict[Any, Merged] = {}


def _kept(self: Any, pool: ExpertPool) -> Merged:
    """The first pool's merge, for ever."""
    if self.salt not in _KEPT:
        _KEPT[self.salt] = Merged(dense={m: mean(dense(s), pool) for m, s in pool.modules.items()})
    return _KEPT[self.salt]


mistake(
    "the first pool's merge kept",
    "nothing_is_kept_between_pools",
    Merge,
    {"salt": option(0, "nothing")},
    fuse=_kept,
)

# --- what it says of itself ----------------------------------------------------------------------

merged("accepts an empty pool", "an_empty_pool_is_refused", mean, check=lambda self, pool: None)
merged("no cost said", "says_what_it_is_and_costs", mean, __doc__="A mean of updates.")
merged("no sentence", "says_what_it_is_and_costs", mean, __doc__="mean\n\nCost: one LoRA.")
merged(
    "an option that its own label changes",
    "label_gives_the_method_back",
    mean,
    {"k": option(1, "doubled")},
    __post_init__=lambda self: object.__setattr__(self, "k", 2 * self.k),
)
merged("declares a router and asks for none", "needs_are_honoured", mean, needs=frozenset({"fit"}))


def _asks(self: Any, runtime: Runtime) -> Mapping[str, Update]:
    runtime.router("moa")
    return Merge.updates(self, runtime)


def _twice_as_much(self: Any, runtime: Runtime) -> Mapping[str, Update]:
    runtime = type("Double", (), {"pool": runtime.pool})()  # type: ignore[assignment]
    made = Merge.updates(self, runtime)
    return {m: type(u)(2 * u.delta) for m, u in made.items()}  # type: ignore[attr-defined]


mistake("asks for a router undeclared", "needs_are_honoured", Merge, updates=_asks, **joined(mean))
mistake(
    "runs another merge than it exports",
    "what_is_exported_is_the_merge",
    Merge,
    updates=_twice_as_much,
    **joined(mean),
)
