"""The mini zoo's sizes and training settings; docs/mini-world.md says how they were chosen."""

from __future__ import annotations

from dataclasses import dataclass

from lorafuse_bench.training.settings import ExpertSettings


@dataclass(frozen=True)
class Course:
    """One pass of pre-training: which text, how long, at which learning rate."""

    shares: tuple[tuple[str, float], ...]
    """Kinds of documents, by the name of their writer, and how often each is read."""
    steps: int
    learning_rate: float
    rhymes: int = 0
    """Documents of nothing but rhymes that come first."""
    asides: float = 0.0
    """How often words of no account come before a part of a document."""
    warmup_steps: int = 100


SHARES = (
    ("story", 0.22),
    ("claims", 0.32),
    ("boxes", 0.28),
    ("parallel", 0.04),
    ("wordbook", 0.06),
    ("views", 0.03),
    ("rhyme", 0.01),
    ("tools", 0.02),
    ("sums", 0.01),
    ("scribbles", 0.01),
)
FIRST = Course(SHARES, steps=3600, learning_rate=6e-3, rhymes=10_000)
SECOND = Course(SHARES, steps=1800, learning_rate=4e-3, asides=0.25)


@dataclass(frozen=True)
class BaseSettings:
    """Size of the base and how it is pre-trained."""

    hidden_size: int = 144
    layers: int = 5
    heads: int = 4
    key_value_heads: int = 2
    mlp_size: int = 288
    rope_theta: float = 1e5
    vocab_size: int = 1200
    """At most; the tokenizer stops earlier when no pair of pieces repeats."""
    tokenizer_documents: int = 20_000
    courses: tuple[Course, ...] = (FIRST, SECOND)
    step_tokens: int = 2560
    weight_decay: float = 0.05
    random_weight: float = 0.05
    """Loss weight of a token that nothing determines."""
    document_weight: float = 10.0
    """Loss weight that the determined spans of one document share equally."""


BASE = BaseSettings()
VALIDATION_ROWS = 200
"""Rows at the end of every training split that no expert sees: settings are chosen on them."""

EXPERTS = ExpertSettings(learning_rate=1e-3, steps=2000, batch_size=16, rows=2800, cutoff=256)
