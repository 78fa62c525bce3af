"""RegMean, Fisher merging and AdaMerging against dense references in double precision, from rows to the merge."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from tiny import tiny_zoo
from torch import Tensor

from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.base import Merge
from lorafuse_bench.fusion.fitted import Fitted
from lorafuse_bench.fusion.merging.regmean import projected
from lorafuse_bench.loading import load_model, load_tokenizer
from lorafuse_bench.testing.toys import deltas, with_deltas
from lorafuse_bench.training.examples import IGNORED, Example, tokenize
from lorafuse_bench.training.fit_rows import fit_rows
from lorafuse_bench.training.fitting import FitSettings, fit
from lorafuse_bench.training.router_training import length_of
from lorafuse_bench.zoo.manifest import Zoo

TWO = ("sst2", "mnli")
ROWS = 3
SETTINGS = FitSettings(steps=3, batch_size=2, rates=(0.1,), rows=4, dev=2)
MODULE = "model.layers.1.self_attn.q_proj"


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return tiny_zoo(tmp_path_factory.mktemp("field") / "zoo", experts=2, mixed=True)


def merged(zoo: Zoo, spec: str, settings: FitSettings = SETTINGS) -> dict[str, Tensor]:
    """The dense updates that a fit of the method ends in."""
    method = registry.parse(spec)
    assert isinstance(method, Fitted)
    assert isinstance(method, Merge)
    fit(method, "/".join(TWO), Zoo.open(zoo.root), "mini", settings, report=lambda line: None)
    opened = Zoo.open(zoo.root)
    fused = FusedModel(load_model(opened.base_folder()), opened, ExpertPool.from_zoo(opened))
    adapter = method.collapse(fused.pool, fused.artefact)
    return dict(adapter.dense) | {m: b @ a for m, (a, b) in adapter.factors.items()}


def examples(zoo: Zoo, task: str) -> list[Example]:
    (rows,) = fit_rows((task,), "mini", SETTINGS.rows, SETTINGS.dev)
    model = load_model(zoo.base_folder())
    return tokenize(rows.fit[:ROWS], load_tokenizer(str(zoo.base_folder())), length_of(zoo, model))


def expert_model(zoo: Zoo, expert: int) -> torch.nn.Module:
    """The base with one expert's update in its weights, in fp64."""
    pool = ExpertPool.from_zoo(zoo)
    return with_deltas(copy.deepcopy(load_model(zoo.base_folder())), deltas(pool.experts[expert]))


def update(zoo: Zoo, expert: int) -> Tensor:
    pool = ExpertPool.from_zoo(zoo)
    stack = pool.modules[MODULE]
    return (stack.B[expert] @ stack.A[expert]).double()


def test_regmean_solves_the_least_squares_of_all_experts(zoo: Zoo) -> None:
    got = merged(zoo, f"regmean:rows={ROWS}+off_diagonal=0.9")[MODULE].double()
    above, below = torch.zeros_like(got), torch.zeros(got.shape[1], got.shape[1]).double()
    for i, task in enumerate(TWO):
        model, seen = expert_model(zoo, i), []
        hook = model.get_submodule(MODULE).register_forward_hook(
            lambda module, args, y, seen=seen: seen.append(args[0][0].detach())
        )
        for example in examples(zoo, task):
            model(input_ids=torch.tensor([example["input_ids"]]))
        hook.remove()
        x = torch.cat(seen).T
        gram = x @ x.T / x.shape[1]
        gram = gram * (0.9 + 0.1 * torch.eye(len(gram)).double())
        above += update(zoo, i) @ gram
        below += gram
    torch.testing.assert_close(got, above @ torch.linalg.inv(below), rtol=1e-3, atol=1e-4)


def test_regmean_without_a_shrunk_diagonal_has_the_least_error_on_the_experts_inputs() -> None:
    """No other update is nearer: moving the closed form anywhere makes the summed squares larger."""
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(*size, generator=g).double() for size in ((2, 3, 5), (2, 4, 3)))
    x = torch.randn(2, 5, 30, generator=g).double()
    found = sum(b[i] @ projected(a, x @ x.transpose(1, 2))[i] for i in range(2))

    def error(w: Tensor) -> Tensor:
        return sum(((w - b[i] @ a[i]) @ x[i]).square().sum() for i in range(2))  # type: ignore[return-value]

    assert isinstance(found, Tensor)
    leaf = found.clone().requires_grad_()
    assert torch.autograd.grad(error(leaf), leaf)[0].abs().max() < 1e-9
    assert error(found) < error(found + 0.01 * torch.randn(4, 5, generator=g).double())


def test_fisher_weighs_each_weight_by_its_squared_gradients(
    zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where answers are drawn as the likeliest tokens, so that both sides draw the same."""
    monkeypatch.setattr(torch, "multinomial", lambda p, n, generator: p.argmax(-1, keepdim=True))
    got = merged(zoo, f"fisher:rows={ROWS}")[MODULE].double()
    above, below = torch.zeros_like(got), torch.zeros_like(got)
    for i, task in enumerate(TWO):
        model, information = expert_model(zoo, i), torch.zeros_like(got)
        weight = model.get_submodule(MODULE).weight
        assert isinstance(weight, Tensor)
        weight.requires_grad_(True)
        for example in examples(zoo, task):
            scores = model(input_ids=torch.tensor([example["input_ids"]])).logits[0].log_softmax(-1)
            before = [t - 1 for t, label in enumerate(example["labels"]) if label != IGNORED]
            likeliest = scores[before].max(-1).values.sum()
            information += torch.autograd.grad(likeliest, weight)[0].square()
        above += information / ROWS * update(zoo, i)
        below += information / ROWS
    torch.testing.assert_close(got, above / below, rtol=1e-3, atol=1e-4)


def test_fishers_answers_are_drawn_from_the_model_by_the_fits_seed(zoo: Zoo) -> None:
    first, second = merged(zoo, "fisher:rows=1"), merged(zoo, "fisher:rows=1", replace(SETTINGS, seed=1))
    assert not torch.equal(first[MODULE], second[MODULE])
    zoo.save()  # without what was fitted
    assert torch.equal(merged(zoo, "fisher:rows=1")[MODULE], first[MODULE])


@pytest.mark.parametrize("scope", ["global", "module"])
def test_adamerging_lowers_the_entropy_of_first_tokens(zoo: Zoo, scope: str) -> None:
    pool = ExpertPool.from_zoo(zoo)
    got = merged(zoo, f"adamerging:scope={scope}")
    start = {m: sum(0.3 * b @ a for a, b in zip(s.A, s.B, strict=True)) for m, s in pool.modules.items()}
    assert entropy(zoo, got) < entropy(zoo, start)  # type: ignore[arg-type]


def entropy(zoo: Zoo, updates: Mapping[str, Tensor]) -> float:
    """Mean nats of the distribution after each prompt, in fp64."""
    model = with_deltas(load_model(zoo.base_folder()), {m: d.double() for m, d in updates.items()})
    found = []
    for task in TWO:
        for example in examples(zoo, task):
            prompt = [
                t
                for t, label in zip(example["input_ids"], example["labels"], strict=True)
                if label == IGNORED
            ]
            scores = model(input_ids=torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
            found.append(float(-(scores.exp() * scores).sum().detach()))
    return sum(found) / len(found)


def test_adamerging_reads_no_target(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other answers, the same weights."""
    first = merged(zoo, "adamerging:scope=layer")

    def other(rows, tokenizer, cutoff):  # type: ignore[no-untyped-def]
        found = tokenize(rows, tokenizer, cutoff)
        for one in found:
            length = sum(label == IGNORED for label in one["labels"])
            ids = [(token + 7) % 256 for token in one["input_ids"][length:]]
            one["input_ids"][length:], one["labels"][length:] = ids, ids
        return found

    monkeypatch.setattr("lorafuse_bench.training.fit_run.tokenize", other)
    zoo.save()  # without what was fitted
    again = merged(zoo, "adamerging:scope=layer")
    for name, found in first.items():
        assert torch.equal(again[name], found)
