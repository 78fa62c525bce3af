"""Logits at the targets only: the same loss and gradients as from all of them, whatever surrounds the head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from lorafuse_bench.training.loss import completion_loss, target_logits

SIZES = {
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "gemma2": {"final_logit_softcapping": 2.0},
    "granite": {"logits_scaling": 3.0},
    "cohere": {"logit_scale": 0.5},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2},
    "opt": {"word_embed_proj_dim": 16, "ffn_dim": 24},
    "gpt_neox": {},
}
IDS = torch.tensor([[5, 6, 7, 8, 9], [3, 4, 11, 12, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]])
LABELS = torch.tensor([[-100, -100, 7, 8, 9], [-100, -100, -100, 12, -100]])


def model_of(architecture: str) -> nn.Module:
    config = AutoConfig.for_model(architecture, **SIZES | MODELS[architecture])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.mark.parametrize("architecture", MODELS)
def test_loss_and_gradients_are_those_of_all_logits(architecture: str) -> None:
    model = model_of(architecture)
    everything = model(input_ids=IDS, attention_mask=MASK).logits
    expected = F.cross_entropy(
        everything[:, :-1].flatten(0, 1), LABELS[:, 1:].flatten(), ignore_index=-100, reduction="sum"
    )
    expected.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    loss, count = completion_loss(model, LABELS, input_ids=IDS, attention_mask=MASK)
    loss.backward()
    assert count == 4
    torch.testing.assert_close(loss, expected)
    for name, parameter in model.named_parameters():
        if name in gradients:
            torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", MODELS)
def test_the_head_sees_the_targets_only(architecture: str) -> None:
    model = model_of(architecture)
    seen = []
    model.get_output_embeddings().register_forward_hook(lambda _m, _a, output: seen.append(output.shape))
    logits, targets = target_logits(model, LABELS, input_ids=IDS, attention_mask=MASK)
    assert seen == [(1, 4, 61)] and logits.shape == (4, 61) and targets.tolist() == [7, 8, 9, 12]


def test_a_head_that_reads_something_else_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then all logits are computed."""
    model = model_of("llama")
    expected = target_logits(model, LABELS, input_ids=IDS, attention_mask=MASK)[0]
    monkeypatch.setattr(model, "get_output_embeddings", lambda: None)
    found = target_logits(model, LABELS, input_ids=IDS, attention_mask=MASK)[0]
    torch.testing.assert_close(found, expected)
