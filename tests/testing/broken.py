"""Methods with one mistake each, and the check that says what is wrong with it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorafuse_bench.experts import ExpertPool, ModuleStack
from lorafuse_bench.fusion.base import (
    Adapter,
    Ensembling,
    FusionMethod,
    Members,
    Merge,
    Prompts,
    RowRouting,
    Runtime,
    option,
)
from lorafuse_bench.layers import AddedUpdate, GatedUpdate, RowUpdate, Update, linear_weight

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

    def fuse(self: Any, pool: ExpertPool) -> Adapter:
        return Adapter(dense={m: join(dense(stack), pool) for m, stack in pool.modules.items()})

    return {"fuse": fuse}


def mean(deltas: Deltas, pool: ExpertPool) -> Tensor:
    return torch.stack(deltas).mean(0)


def merged(what: str, by: str, join: Join, options: Mapping[str, Any] | None = None, **body: Any) -> None:
    mistake(what, by, Merge, options, **joined(join), **body)


def fused(what: str, by: str, fuse: Callable[[Any, ExpertPool], Adapter], **body: Any) -> None:
    mistake(what, by, Merge, fuse=fuse, **body)


def factors(pool: ExpertPool, change: Callable[[ModuleStack], tuple[Tensor, Tensor]]) -> Adapter:
    return Adapter({m: change(stack) for m, stack in pool.modules.items()})


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


def _unscaled(self: Any, pool: ExpertPool) -> Adapter:
    return factors(
        pool,
        lambda s: (
            s.A.flatten(0, 1),
            (s.B / s.scaling[:, None, None]).transpose(0, 1).flatten(1) / len(pool),
        ),
    )


def _alpha_over_rank(self: Any, pool: ExpertPool) -> Adapter:
    """rsLoRA's alpha/sqrt(r) taken for alpha/r."""
    right = torch.tensor([e.alpha / e.rank for e in pool.experts])

    def change(s: ModuleStack) -> tuple[Tensor, Tensor]:
        b = s.B * (right / s.scaling)[:, None, None]
        return s.A.flatten(0, 1), b.transpose(0, 1).flatten(1) / len(pool)

    return factors(pool, change)


def _scaled_twice(self: Any, pool: ExpertPool) -> Adapter:
    return factors(
        pool,
        lambda s: (
            s.A.flatten(0, 1),
            (s.B * s.scaling[:, None, None]).transpose(0, 1).flatten(1) / len(pool),
        ),
    )


def _before(self: Any, pool: ExpertPool) -> Adapter:
    return factors(pool, lambda s: (s.A.mean(0), s.B.mean(0)))


fused("scale dropped", "alphas_and_rslora", _unscaled)
fused("alpha/r also for rsLoRA", "alphas_and_rslora", _alpha_over_rank)
fused("scaled twice", "alphas_and_rslora", _scaled_twice)
fused("factors combined, not said", "gauge", _before)
merged(
    "a law declared broken that holds", "gauge", mean, laws_broken={"gauge (A, B) -> (RA, BR⁻¹)": "no reason"}
)

# --- where experts work --------------------------------------------------------------------------


def _present_only(self: Any, pool: ExpertPool) -> Adapter:
    return Adapter(
        dense={
            m: sum(dense(s)) / sum(rank > 0 for rank in s.ranks)  # type: ignore[misc]
            for m, s in pool.modules.items()
        }
    )


def _common_only(self: Any, pool: ExpertPool) -> Adapter:
    return Adapter(dense={m: mean(dense(s), pool) for m, s in pool.modules.items() if all(s.ranks)})


def _one_more(self: Any, pool: ExpertPool) -> Adapter:
    whole = {m: mean(dense(s), pool) for m, s in pool.modules.items()}
    return Adapter(dense=whole | {"model.layers.0.self_attn.o_proj": torch.ones(32, 32)})


fused("absent experts not counted", "absent_experts_are_as_declared", _present_only)
fused("modules that only some adapt left out", "modules_without_experts_stay_the_bases", _common_only)
fused("a module that nobody adapts updated", "modules_without_experts_stay_the_bases", _one_more)

# --- what must be left alone ---------------------------------------------------------------------


def _pool_written(self: Any, pool: ExpertPool) -> Adapter:
    return Adapter(dense={m: (s.B.div_(len(pool)) @ s.A).sum(0) for m, s in pool.modules.items()})


def _experts_written(self: Any, pool: ExpertPool) -> Adapter:
    for expert in pool.experts:
        for _, b in expert.factors.values():
            b.mul_(0.5)
    return Adapter(dense={m: mean(dense(s), pool) for m, s in pool.modules.items()})


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


def _thinned(self: Any, pool: ExpertPool, generator: torch.Generator | None) -> Adapter:
    kept = {m: mean(dense(s), pool) for m, s in pool.modules.items()}
    return Adapter(dense={m: x * (torch.rand(x.shape, generator=generator) < 0.5) for m, x in kept.items()})


def _clock(self: Any, pool: ExpertPool) -> Adapter:
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

_KEPT: dict[Any, Adapter] = {}


def _kept(self: Any, pool: ExpertPool) -> Adapter:
    """The first pool's merge, for ever."""
    if self.salt not in _KEPT:
        _KEPT[self.salt] = Adapter(dense={m: mean(dense(s), pool) for m, s in pool.modules.items()})
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

# --- rows ----------------------------------------------------------------------------------------


def chosen(choose: Callable[[Prompts, int], Tensor], **body: Any) -> Body:
    """A router of rows by a number for each prompt."""

    def select(self: Any, runtime: Runtime, prompts: Prompts) -> Tensor:
        index = choose(prompts, len(runtime.pool)) % len(runtime.pool)
        return index[:, None].repeat(1, runtime.base.blocks)

    return {"select": select, "laws_broken": {"order of the experts": "chosen by place"}} | body


def _last(prompts: Prompts, experts: int) -> Tensor:
    return prompts.input_ids[torch.arange(len(prompts.lengths)), prompts.lengths - 1]


SOUND.append(method(RowRouting, chosen(_last)))


def _by_task(prompts: Prompts, experts: int) -> Tensor:
    return torch.tensor([len(task) for task in prompts.tasks])


def _cleared(prompts: Prompts, experts: int) -> Tensor:
    return prompts.input_ids.masked_fill_(~prompts.mask, 5).sum(1)


def _rolled(self: Any, runtime: Runtime) -> Mapping[str, Update]:
    made: dict[str, Update] = {}
    for m, s in runtime.pool.modules.items():
        block = runtime.base.block_of(m)
        moved = ModuleStack(s.A.roll(block, 0), s.B.roll(block, 0), s.scaling.roll(block), s.ranks)
        made[m] = RowUpdate(moved, runtime.selection, block)
    return made


def rowwise(what: str, by: str, choose: Callable[[Prompts, int], Tensor], **body: Any) -> None:
    mistake(what, by, RowRouting, **chosen(choose, **body))


rowwise("padding token routed", "padding_is_not_routed", lambda p, n: p.input_ids.sum(1))
rowwise("last column taken for the last token", "padding_is_not_routed", lambda p, n: p.input_ids[:, -1])
rowwise(
    "routed by the batch's mean",
    "padding_is_not_routed",
    lambda p, n: (_last(p, n).float().mean() + 0 * _last(p, n)).long(),
)
rowwise("task read undeclared", "needs_are_honoured", _by_task)
rowwise("task declared and not read", "needs_are_honoured", _last, needs=frozenset({"task_id"}))
rowwise("prompts written to", "inputs_are_left_alone", _cleared)
rowwise("experts swapped in one layer", "each_row_runs_its_own_expert", _last, updates=_rolled)

# --- ensembles -----------------------------------------------------------------------------------


def ensemble(**body: Any) -> Body:
    def members(self: Any, runtime: Runtime) -> Members:
        n = len(runtime.pool)
        index = torch.arange(n)[:, None].expand(-1, runtime.base.blocks)
        return Members(index, torch.full((n,), 1 / n))

    def add(self: Any, total: Tensor | None, logits: Tensor, weights: Tensor) -> Tensor:
        part = torch.tensordot(weights, logits.softmax(-1), dims=1)
        return part if total is None else total + part

    whole = {
        "members": members,
        "add": add,
        "log_probabilities": lambda self, total: total.log(),
        "chunk": None,
    }
    return whole | body


SOUND.append(method(Ensembling, ensemble()))


def _double(self: Any, runtime: Runtime) -> Members:
    plain = ensemble()["members"](self, runtime)
    return Members(plain.index, torch.ones_like(plain.weights))


def _only_the_last(self: Any, total: Tensor | None, logits: Tensor, weights: Tensor) -> Tensor:
    return torch.tensordot(weights / weights.sum(), logits.softmax(-1), dims=1)


def _over_rows(self: Any, total: Tensor | None, logits: Tensor, weights: Tensor) -> Tensor:
    part = torch.tensordot(weights, logits.softmax(1), dims=1)
    return part if total is None else total + part


mistake("members weigh 1 each", "members_are_the_experts", Ensembling, **ensemble(members=_double))
mistake("only the last member counts", "order_of_the_experts", Ensembling, **ensemble(add=_only_the_last))
mistake("softmax over the rows of logits", "one_expert_is_itself", Ensembling, **ensemble(add=_over_rows))

# --- maps of the base ----------------------------------------------------------------------------


class Rebuilt(Update):
    """`(W + ΔW) x`, from a weight that it reads itself."""

    def __init__(self, delta: Tensor, weight: Callable[[nn.Module], Tensor], bias: bool) -> None:
        super().__init__()
        self.register_buffer("delta", delta)
        self.of, self.bias = weight, bias

    def output(self, base: nn.Module, x: Tensor) -> Tensor:
        return F.linear(x, self.of(base) + self.delta, base.bias if self.bias else None)  # type: ignore[arg-type,operator]

    @property
    def size(self) -> int:
        return self.delta.numel()  # type: ignore[operator]


def rebuilt(weight: Callable[[nn.Module], Tensor], bias: bool = True) -> Body:
    def updates(self: Any, runtime: Runtime) -> Mapping[str, Update]:
        pool = runtime.pool
        return {m: Rebuilt(mean(dense(s), pool), weight, bias) for m, s in pool.modules.items()}

    return {"updates": updates, "family": "merging"}


SOUND.append(method(FusionMethod, rebuilt(linear_weight)))


def _as_stored(base: nn.Module) -> Tensor:
    weight = base.weight
    assert isinstance(weight, Tensor)
    square = weight.shape[0] == weight.shape[1]
    return weight if square or isinstance(base, nn.Linear) else weight.T


mistake("bias dropped", "zero_updates_give_the_base", FusionMethod, **rebuilt(linear_weight, bias=False))
mistake("transposed Conv1D", "one_expert_is_itself_on_gpt2", FusionMethod, **rebuilt(_as_stored))
assert AddedUpdate
