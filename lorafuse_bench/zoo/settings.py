"""The mini zoo's sizes and training settings; docs/mini-world.md says how they were chosen."""

from __future__ import annotations

from dataclasses import dataclass

from lorafuse_bench.training.experts import ExpertSettings


@dataclass(frozen=True)
class BaseSettings:
    """Size of the base and how it is pre-trained."""

    hidden_size: int = 160
    layers: int = 5
    heads: int = 8
    key_value_heads: int = 4
    mlp_size: int = 320
    vocab_size: int = 1200
    """At most; the tokenizer stops earlier when no pair of pieces repeats."""
    tokenizer_documents: int = 20_000
    step_tokens: int = 2560
    steps: int = 1000
    learning_rate: float = 3e-3
    warmup_steps: int = 100
    weight_decay: float = 0.05
    random_weight: float = 0.05
    """Loss weight of a token that nothing determines."""
    document_weight: float = 10.0
    """Loss weight that the determined spans of one document share equally."""


BASE = BaseSettings()
VALIDATION_ROWS = 200
"""Rows at the end of every training split that no expert sees: settings are chosen on them."""

EXPERTS = ExpertSettings(learning_rate=2e-3, steps=400, batch_size=16, rows=2800, cutoff=256)
