"""Where experts work: the modules they adapt, those they do not, and the expert that a gate or a row names."""

from __future__ import annotations

import torch
from torch import Tensor

from lorafuse_bench.experts import LoraExpert
from lorafuse_bench.fusion.base import Ensembling, RowRouting
from lorafuse_bench.layers import FusedModule, GatedUpdate, RowUpdate
from lorafuse_bench.testing.check import FAILS, HOLDS, check
from lorafuse_bench.testing.laws import expert_distribution
from lorafuse_bench.testing.subject import (
    DoesNotApplyError,
    Subject,
    added,
    apart,
    distribution_under,
    gap,
    inputs,
    layers,
    prompts,
    require_experts,
)
from lorafuse_bench.testing.toys import toy_experts, without


def spread() -> tuple[LoraExpert, ...]:
    """Three experts: one without keys, one without the first block, one of queries alone; none adapts `o_proj`."""
    first, second, third = (without(e, [m for m in e.factors if "o_proj" in m]) for e in toy_experts())
    return (
        without(first, [m for m in first.factors if "k_proj" in m]),
        without(second, [m for m in second.factors if ".0." in m]),
        without(third, [m for m in third.factors if "q_proj" not in m]),
    )


@check
def modules_without_experts_stay_the_bases(subject: Subject) -> None:
    """Every module that some expert adapts gets an update, no other does, and the model runs."""
    require_experts(subject.method)
    with subject.fused(spread()) as model:
        got, wanted = layers(model).keys(), model.pool.modules.keys()
        assert got <= wanted, f"{min(got - wanted)} gets an update, and no expert adapts it"
        if subject.method.family not in ("floor",):
            assert got >= wanted, f"{min(wanted - got)} gets no update, and an expert adapts it"
    assert torch.isfinite(subject.distribution(spread())).all(), "the model gives no finite numbers"


@check
def absent_experts_are_as_declared(subject: Subject) -> None:
    """At a module that an expert leaves out it is a zero update, or no candidate for the gates, as declared."""
    require_experts(subject.method)
    first, *rest = toy_experts()
    module = "model.layers.1.self_attn.q_proj"
    absent = [without(first, [module]), *rest]
    if subject.method.absent_experts == "no candidates":
        got, expected = subject.outputs(absent)[module], subject.outputs(rest)[module]
        distance = apart({module: got}, {module: expected})
        assert distance < HOLDS, (
            f"it counts at a module that it does not adapt (outputs {distance:.2g} apart)"
        )
        return
    a, b = first.factors[module]
    zero = {**first.factors, module: (torch.zeros_like(a), torch.zeros_like(b))}
    explicit = LoraExpert(**{**vars(first), "factors": zero})
    distance = gap(subject.distribution(absent), subject.distribution([explicit, *rest]))
    assert distance < HOLDS, f"it is not as a zero update there ({distance:.2g} apart)"


@check
def each_gate_weighs_its_own_expert(subject: Subject) -> None:
    """With gate 1 for one expert and 0 for the others, every map adds that expert's s B A x."""
    found = False
    with subject.fused() as model, torch.no_grad():
        for name, layer in layers(model).items():
            if isinstance(layer.update, GatedUpdate):
                found = True
                _one_at_a_time(name, layer, layer.update)
    if not found:
        raise DoesNotApplyError("it has no gates over experts")


def _one_at_a_time(name: str, layer: FusedModule, update: GatedUpdate) -> None:
    for i, expert in enumerate(toy_experts()):

        def only(scores: Tensor, i: int = i) -> Tensor:
            gates = torch.zeros_like(scores)
            gates[..., i] = 1
            return gates

        update.weigh = only
        a, b = expert.factors[name]
        expected = inputs(layer.base) @ (expert.scaling[name] * b @ a).T
        distance = apart({name: added(layer)}, {name: expected})
        assert distance < HOLDS, (
            f"gate {i} at {name} adds another update than expert {i}'s ({distance:.2g} apart)"
        )


@check
def each_row_runs_its_own_expert(subject: Subject) -> None:
    """Rows of one batch under different experts each get what their expert alone gives, in every block."""
    if "fit" in subject.method.needed and not isinstance(subject.method, RowRouting):
        raise DoesNotApplyError("what its rows run is learned")
    with subject.fused() as model:
        rowwise = layers(model)
        if not rowwise or not all(isinstance(layer.update, RowUpdate) for layer in rowwise.values()):
            raise DoesNotApplyError("it does not give rows experts of their own")
        ids, _ = prompts()
        with torch.no_grad():
            model.selection.set(torch.arange(3)[:, None].repeat(1, model.base.blocks))
            got = model.model(input_ids=ids).logits.log_softmax(-1)
    for row, expert in enumerate(toy_experts()):
        distance = gap(got[row], expert_distribution(expert)[row])
        assert distance < HOLDS, f"a row of expert {row} gets something else ({distance:.2g} nats apart)"


@check
def members_are_the_experts(subject: Subject) -> None:
    """An ensemble's members have weights of sum 1, and run experts that there are."""
    if not isinstance(subject.method, Ensembling):
        raise DoesNotApplyError("it is no ensemble")
    with subject.fused() as model:
        members = subject.method.members(model)
        index = members.index
        assert index.shape == (len(members.weights), model.base.blocks), "index is not (members, blocks)"
        assert index.min() >= -1 and index.max() < len(model.pool), (
            "a member runs an expert that there is not"
        )
        assert abs(members.weights.sum().item() - 1) < FAILS, "the weights do not sum to 1"
        ids, _ = prompts()
        assert torch.isfinite(distribution_under(model, ids, None)).all(), "its mean is not finite"
