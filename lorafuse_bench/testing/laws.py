"""Laws that a method keeps or declares broken: inputs that are the same function must give the same result."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lorafuse_bench.experts import LoraExpert
from lorafuse_bench.layers import GatedUpdate
from lorafuse_bench.testing.check import check, law
from lorafuse_bench.testing.subject import (
    DoesNotApplyError,
    Subject,
    added,
    apart,
    distribution,
    gap,
    layers,
    prompts,
    require_experts,
)
from lorafuse_bench.testing.toys import (
    changed,
    copies,
    deltas,
    padded,
    scaled,
    toy_base,
    toy_experts,
    turned,
    unscaled,
    with_deltas,
)


def base_distribution(architecture: str = "qwen2") -> Tensor:
    """The base alone, in fp64."""
    return _dense(architecture, {})


def expert_distribution(expert: LoraExpert, architecture: str = "qwen2") -> Tensor:
    """One expert's `W + s B A`, in fp64."""
    return _dense(architecture, deltas(expert))


@torch.no_grad()
def _dense(architecture: str, added: dict[str, Tensor]) -> Tensor:
    model = with_deltas(toy_base(architecture), added)
    result: Tensor = model(input_ids=prompts()[0]).logits.log_softmax(-1)
    return result


def one_expert(subject: Subject, architecture: str) -> float:
    require_experts(subject.method)
    (alone,) = toy_experts(architecture, 1)
    # All rows are of its task, so that a method that is told tasks finds it.
    ids, _ = prompts()
    with subject.fused([alone], architecture) as model:
        got = distribution(model, ids, [alone.tasks[0]] * len(ids))
    return gap(got, expert_distribution(alone, architecture))


def zero_updates(subject: Subject, architecture: str) -> float:
    """Experts whose B is zero, or an adapter as it starts."""
    none = [changed(e, lambda a, b: (a, torch.zeros_like(b))) for e in toy_experts(architecture)]
    got = subject.distribution(none, architecture, untrained=True)
    return gap(got, base_distribution(architecture))


@law("one expert is itself")
def one_expert_is_itself(subject: Subject) -> float:
    """Of a pool of one expert the method makes that expert: W + s B A, in fp64."""
    return one_expert(subject, "qwen2")


@law("one expert is itself")
def one_expert_is_itself_on_llama(subject: Subject) -> float:
    """The same on a base of Llama's make."""
    return one_expert(subject, "llama")


@law("one expert is itself")
def one_expert_is_itself_on_gpt2(subject: Subject) -> float:
    """The same on a base of GPT-2's make, whose Conv1D keep W transposed and have biases."""
    return one_expert(subject, "gpt2")


@law("zero updates give the base")
def zero_updates_give_the_base(subject: Subject) -> float:
    """Experts that change nothing, or an adapter as it starts, leave the base."""
    return zero_updates(subject, "qwen2")


@law("zero updates give the base")
def zero_updates_give_the_base_on_llama(subject: Subject) -> float:
    """The same on a base of Llama's make."""
    return zero_updates(subject, "llama")


@law("zero updates give the base")
def zero_updates_give_the_base_on_gpt2(subject: Subject) -> float:
    """The same on a base of GPT-2's make."""
    return zero_updates(subject, "gpt2")


def same(subject: Subject, experts: Sequence[LoraExpert]) -> float:
    """How far the method's outputs for other experts are from those for the toys."""
    require_experts(subject.method)
    return gap(subject.distribution(experts), subject.distribution())


@law("gauge (A, B) -> (RA, BR⁻¹)")
def gauge(subject: Subject) -> float:
    """Other factors of the same updates make no difference."""
    return same(subject, turned(toy_experts()))


@law("order of the experts")
def order_of_the_experts(subject: Subject) -> float:
    """The experts in another order make no difference."""
    return same(subject, toy_experts()[::-1])


@law("unequal ranks")
def unequal_ranks(subject: Subject) -> float:
    """Rank components that are zero make no difference."""
    return same(subject, padded(toy_experts()))


@law("alphas and rsLoRA")
def alphas_and_rslora(subject: Subject) -> float:
    """A scaling alpha/r or alpha/sqrt(r) makes the same difference as the same number in B."""
    return same(subject, unscaled(toy_experts()))


@law("copies of one expert are it")
def copies_of_one_expert_are_it(subject: Subject) -> float:
    """Three copies of one expert make that expert."""
    require_experts(subject.method)
    one = toy_experts()[0]
    with subject.fused(copies(one)) as model:
        got = distribution(model, *prompts())
    return gap(got, expert_distribution(one))


@law("scale of the updates")
def scale_of_the_updates(subject: Subject) -> float:
    """All updates three times as large add three times as much at every map."""
    return _multiplied(subject, 3.0)


@law("sign of the updates")
def sign_of_the_updates(subject: Subject) -> float:
    """All updates negated add the opposite at every map."""
    return _multiplied(subject, -1.0)


def _multiplied(subject: Subject, by: float) -> float:
    require_experts(subject.method)
    got, plain = subject.outputs(scaled(toy_experts(), by)), subject.outputs()
    return apart(got, {name: by * y for name, y in plain.items()})


@law("gates are shares")
def gates_are_shares(subject: Subject) -> float:
    """A token's gates over experts are not negative and sum to 1 at every map."""
    found = gates(subject)
    return max(max((-g).max().item(), (g.sum(-1) - 1).abs().max().item()) for g in found)


@check
def k_experts_are_mixed(subject: Subject) -> None:
    """With k=1 a token has one expert, with k=2 two."""
    if "k" not in subject.method.options():
        raise DoesNotApplyError("it has no option k")
    for k in (1, 2):
        method = dataclasses.replace(subject.method, k=k)  # type: ignore[type-var]
        mixed = torch.stack([(g != 0).sum(-1) for g in gates(Subject(method))])
        assert (mixed == k).all(), f"with k={k} tokens mix from {mixed.min()} to {mixed.max()} experts"


@torch.no_grad()
def gates(subject: Subject) -> list[Tensor]:
    """A token's gates over the experts `(rows, tokens, N)` at each map, for one random input."""
    found: list[Tensor] = []
    with subject.fused() as model:
        for layer in layers(model).values():
            if isinstance(layer.update, GatedUpdate):
                layer.update.weigh = _noted(layer.update.weigh, found)
                added(layer)
    if not found:
        raise DoesNotApplyError("it has no gates over experts")
    return found


def _noted(weigh: Callable[[Tensor], Tensor], found: list[Tensor]) -> Callable[[Tensor], Tensor]:
    def noted(scores: Tensor) -> Tensor:
        found.append(weigh(scores))
        return found[-1]

    return noted
