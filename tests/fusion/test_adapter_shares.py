"""Trained parameters over the base's, on Llama-3.1-8B without its weights, against MoORE's tables."""

from __future__ import annotations

import pytest
import torch
from adapters import method_of
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from lorafuse_bench.base_model import Base
from lorafuse_bench.layers import Selection

TASKS = 9  # CSR-MTL


@pytest.fixture(scope="module")
def llama() -> dict[str, nn.Module]:
    """The modules of Llama-3.1-8B, on the meta device."""
    config = AutoConfig.for_model(
        "llama",
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    assert sum(p.numel() for p in model.parameters()) == 8_030_261_248
    return Base(model)


def share(base: Base, spec: str) -> float:
    """Per cent, as the paper prints it."""
    updates = method_of(spec).attach(base, TASKS, Selection())
    assert all(p.device.type == "meta" for update in updates.values() for p in update.parameters())
    trained = sum(update.size for update in updates.values())
    return round(100 * trained / sum(p.numel() for p in base.model.parameters()), 2)


@pytest.mark.parametrize(
    ("spec", "printed"),
    [
        ("full_finetune", 100.0),
        ("lora", 2.09),
        ("mixlora", 3.00),
        ("hydralora", 2.72),
        ("loramoe", 2.19),
        ("mosld:rank=18+experts=4", 1.49),  # no size that anybody names
        ("mosld:rank=4+experts=17+shared=A", 1.49),
        ("moore:reflections=0", 2.72),
        ("moore:reflections=2", 2.75),
        ("moore:reflections=4", 2.78),
        ("moore", 2.84),
        # Table 13
        ("moore:d_t=64+d_s=0+reflections=0", 0.58),
        ("moore:d_t=0+d_s=16+reflections=0", 0.39),
        ("moore:d_t=0+d_s=128+reflections=0", 3.13),
        ("moore:d_t=0+d_s=0+reflections=2", 0.03),
        ("moore:d_t=0+d_s=0+reflections=16", 0.25),
    ],
)
def test_shares_are_the_papers(llama: dict[str, nn.Module], spec: str, printed: float) -> None:
    assert share(llama, spec) == printed


@pytest.mark.parametrize(
    ("spec", "ours", "printed"),
    [
        ("mtl_lora", 2.72, 2.69),
        ("mosld", 1.53, 1.49),
        ("moore:d_t=128+d_s=0+reflections=0", 1.15, 1.16),
    ],
)
def test_shares_that_no_setting_of_ours_reproduces(
    llama: dict[str, nn.Module], spec: str, ours: float, printed: float
) -> None:
    """docs/adapters.md names them; this holds the figures there to the code."""
    assert share(llama, spec) == ours != printed
