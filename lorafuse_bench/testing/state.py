"""What a method must leave alone, remember nothing of, and repeat."""

from __future__ import annotations

import dataclasses
import pickle
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion.base import Ensembling
from lorafuse_bench.fusion.registry import METHODS
from lorafuse_bench.registry import split_options
from lorafuse_bench.testing.check import FAILS, check
from lorafuse_bench.testing.subject import (
    DoesNotApplyError,
    Subject,
    ToyModel,
    batch,
    distribution,
    distribution_under,
    gap,
    inputs,
    layers,
    prompts,
    require_experts,
    select,
)
from lorafuse_bench.testing.toys import TASKS, pool_of, scaled, toy_experts, toy_prompts


@check
def says_what_it_is_and_costs(subject: Subject) -> None:
    """The docstring's first line is a sentence, and one sentence begins with "Cost:"."""
    method = type(subject.method)
    assert method.summary().endswith("."), f"its docstring begins {method.summary()!r}, which is no sentence"
    assert method.cost() != "-", "its docstring has no sentence that begins with 'Cost:'"


@check
def label_gives_the_method_back(subject: Subject) -> None:
    """The label that boards show makes an equal method, of equal hash."""
    method = subject.method
    again = METHODS.make(type(method), split_options(method.label().partition(":")[2]))
    assert again == method and hash(again) == hash(method), f"{method.label()!r} makes {again.label()!r}"


@check
def needs_are_honoured(subject: Subject) -> None:
    """It asks for what it declares to need, for nothing else, and reads tasks only where it declares so."""
    needs = subject.method.needed
    with subject.fused() as model:
        ids, tasks = prompts()
        choices = [_choice(model, ids, order) for order in (tasks, tasks[1:] + tasks[:1])]
        if isinstance(subject.method, Ensembling):
            subject.method.members(model)
        asked = model.asked
    declared = needs & {"fit", "adapter"}
    assert asked <= declared, f"it asks for {', '.join(asked - declared)} and does not declare that need"
    assert asked >= declared, f"it declares a need for {', '.join(declared - asked)} and never asks for it"
    differ = choices[0] is not None and not torch.equal(choices[0], choices[1])  # type: ignore[arg-type]
    assert differ <= ("task_id" in needs), (
        "its choice depends on the rows' tasks, and it does not declare task_id"
    )
    assert differ >= ("task_id" in needs), "it declares task_id, and the rows' tasks make no difference"


def _choice(model: ToyModel, ids: Tensor, tasks: tuple[str, ...]) -> Tensor | None:
    choice = select(model, ids, tasks)
    return None if choice is None else choice.clone()


@check
def an_empty_pool_is_refused(subject: Subject) -> None:
    """Without experts a method that fuses some ends in one line, before anything runs."""
    require_experts(subject.method)
    refusal = ""
    try:
        subject.method.check(ExpertPool([]))
    except LorafuseError as error:
        refusal = str(error)
    assert refusal, "its check accepts a pool without experts"
    assert "\n" not in refusal, f"it refuses an empty pool in several lines: {refusal}"


@check
def inputs_are_left_alone(subject: Subject) -> None:
    """Experts, base, prompts and hidden states are not written to: not by fusing, not by running."""
    fresh = dict(_tensors(ToyModel(pool_of(toy_experts()), "qwen2", torch.float32)))
    with subject.fused() as model:
        for name, tensor in _tensors(model):
            assert torch.equal(tensor, fresh[name]), f"{name} is changed by fusing"
        rows = batch(toy_prompts(), [TASKS[i % 3] for i in range(5)])
        kept = rows.input_ids.clone(), rows.lengths.clone()
        model.select(rows)
        unchanged = torch.equal(rows.input_ids, kept[0]) and torch.equal(rows.lengths, kept[1])
        assert unchanged, "prompts are changed by choosing experts for them"
        distribution(model, *prompts())
        _run_maps(model)
        for name, tensor in _tensors(model):
            assert torch.equal(tensor, fresh[name]), f"{name} is changed by running"


@torch.no_grad()
def _run_maps(model: ToyModel) -> None:
    model.selection.set(select(model, *prompts()))
    for name, layer in layers(model).items():
        x = inputs(layer.base)
        before = x.clone()
        layer.update.output(layer.base, x)
        assert torch.equal(x, before), f"the input of {name} is changed by its update"


def _tensors(model: ToyModel) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the pool and the base, by what it is."""
    for expert in model.pool.experts:
        for module, factors in expert.factors.items():
            for letter, tensor in zip("AB", factors, strict=True):
                yield f"{letter} of expert '{expert.name}' at {module}", tensor
    for module, stack in model.pool.modules.items():
        for letter, tensor in (("A", stack.A), ("B", stack.B), ("scaling", stack.scaling)):
            yield f"the pool's {letter} at {module}", tensor
    for name, layer in model.base.modules.items():
        for key, parameter in layer.named_parameters(recurse=False):
            yield f"the base's {name}.{key}", parameter.detach()


@check
def global_random_state_is_left_alone(subject: Subject) -> None:
    """The generators of torch, numpy and Python stand where they stood."""
    before = _random_state()
    subject.distribution()
    after = _random_state()
    for name, state in before.items():
        assert after[name] == state, f"{name}'s global generator is used or seeded: draw from one of your own"


def _random_state() -> dict[str, bytes]:
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": pickle.dumps(np.random.get_state()),
        "python": pickle.dumps(random.getstate()),
    }


@check
def repeats_bit_for_bit(subject: Subject) -> None:
    """The same experts give the same bytes, wherever the global generators stand."""
    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()
    found = []
    try:
        for seed in (1, 2):
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            found.append(subject.distribution())
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])
        random.setstate(kept[2])
    assert torch.equal(*found), f"two runs differ by {gap(*found):.2g}"


@check
def seed_makes_a_difference(subject: Subject) -> None:
    """Another seed is another draw."""
    options = subject.method.options()
    if "seed" not in options:
        raise DoesNotApplyError("it has no option seed")
    draws = any(not torch.equal(subject.distribution(), _reseeded(subject, seed)) for seed in (1, 2))
    if "density" in options and options["density"] in (0, 1):
        raise DoesNotApplyError("at this density nothing is drawn")
    assert draws, "other seeds give the same: the seed is ignored"


def _reseeded(subject: Subject, by: int) -> Tensor:
    seed = subject.method.options()["seed"]
    method = dataclasses.replace(subject.method, seed=seed + by)  # type: ignore[type-var]
    return Subject(method).distribution()


@check
def nothing_is_kept_between_pools(subject: Subject) -> None:
    """Other experts give something else, and the first ones what they gave before."""
    require_experts(subject.method)
    first = subject.distribution()
    other = subject.distribution(scaled(toy_experts(), -2.0))
    assert gap(first, other) > FAILS, "other experts give what the first ones gave"
    assert gap(first, subject.distribution()) < FAILS, (
        "what it made of other experts meanwhile is still there"
    )


@check
def nothing_is_kept_between_batches(subject: Subject) -> None:
    """A batch after another one is as if it had come first."""
    first, tasks = prompts()
    second = first.flip(0).flip(1)[:2, :5]
    with subject.fused() as model:
        expected = distribution_under(model, second, select(model, second, tasks[:2]))
    with subject.fused() as model:
        distribution(model, first, tasks)
        got = distribution(model, second, tasks[:2])
    assert gap(got, expected) < FAILS, "a batch depends on the one before it"
