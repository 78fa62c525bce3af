"""Pre-training: what the loss weighs, and that a tiny base learns."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from lorafuse_bench.mini_world.plain_text import documents, unmarked
from lorafuse_bench.mini_world.pretrain import (
    batches,
    examples,
    learning_rate_at,
    new_base,
    parameter_count,
    pretrain,
    weighted_loss,
    weighted_tokens,
)
from lorafuse_bench.mini_world.settings import BASE
from lorafuse_bench.mini_world.tokenizer import train_tokenizer
from lorafuse_bench.mini_world.world import make_world

WORLD = make_world(0)
COURSE = replace(BASE.courses[0], steps=60, warmup_steps=5, rhymes=10)
TINY = replace(
    BASE,
    hidden_size=32,
    layers=2,
    heads=2,
    key_value_heads=1,
    mlp_size=32,
    courses=(COURSE, replace(COURSE, steps=10, rhymes=0)),
    step_tokens=512,
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(
        (unmarked(d)[0] for d in islice(documents(WORLD, "test", COURSE.shares), 2000)), 900
    )


def test_weights_of_random_and_determined_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    settings = replace(TINY, random_weight=0.1, document_weight=4.0)
    ids, weights = weighted_tokens("the ‹the the the the› in ‹by›", tokenizer, settings)
    assert len(ids) == 8 and ids[-1] == tokenizer.eos_token_id
    assert weights == [0.1, 0.5, 0.5, 0.5, 0.5, 0.1, 2.0, 0.1]


def test_loss_by_hand() -> None:
    logits = torch.tensor([[[0.0, 0.0], [0.0, 20.0], [0.0, 0.0]]])
    ids, weights = torch.tensor([[0, 1, 1]]), torch.tensor([[9.0, 1.0, 3.0]])
    expected = (1.0 * torch.log(torch.tensor(2.0)) + 3.0 * 0.0) / 4.0
    torch.testing.assert_close(weighted_loss(logits, ids, weights), expected)


def test_batches_hold_whole_documents_within_the_budget(tokenizer: PreTrainedTokenizerBase) -> None:
    made = list(batches(examples(WORLD, tokenizer, TINY, COURSE, "test"), COURSE.steps, TINY.step_tokens, 0))
    assert len(made) == COURSE.steps
    for ids, weights in made:
        assert ids.shape == weights.shape and ids.numel() <= TINY.step_tokens
        padding = weights == 0
        assert (padding[:, 1:] >= padding[:, :-1]).all() and not padding[:, 0].any()


@pytest.mark.parametrize(("heads", "key_heads"), [(2, 1), (4, 2), (4, 4)])
def test_heads_start_by_looking_back_and_at_their_like(
    tokenizer: PreTrainedTokenizerBase, heads: int, key_heads: int
) -> None:
    """Before training, the first block's heads attend 1 to `heads` tokens back; later keys are queries."""
    model = new_base(replace(TINY, hidden_size=128, heads=heads, key_value_heads=key_heads), tokenizer, 0)
    model.config._attn_implementation = "eager"
    with torch.no_grad():
        first = model(input_ids=torch.arange(1, 41)[None], output_attentions=True).attentions[0][0]
    back = torch.arange(40) - first.argmax(-1)
    assert (back[:, 8:] == back[:, 8:9]).all()
    assert sorted(back[:, 8].tolist()) == list(range(1, heads + 1))
    later = model.model.layers[1].self_attn
    shared = later.q_proj.weight.view(key_heads, -1, later.head_dim, 128)[:, 0]
    assert torch.equal(later.k_proj.weight, shared.flatten(0, 1))


def test_learning_rate_rises_then_falls() -> None:
    course = BASE.courses[0]
    rates = [learning_rate_at(step, course) for step in range(course.steps)]
    assert max(rates) == rates[course.warmup_steps - 1] == course.learning_rate
    assert rates[0] < rates[course.warmup_steps // 2] and rates[-1] < 0.05 * course.learning_rate


def test_a_tiny_base_learns_the_same_twice(tokenizer: PreTrainedTokenizerBase) -> None:
    said: list[str] = []
    first = pretrain(WORLD, tokenizer, TINY, 0, said.append)
    second = pretrain(WORLD, tokenizer, TINY, 0, lambda _: None)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in said if "loss" in line]
    assert losses[-1] < losses[0] - 1
    assert parameter_count(first) < 70_000
