"""Pre-training of the mini base: a small Qwen2 on plain world text."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from itertools import groupby, islice

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from lorafuse_bench.mini_world.muon import Muon
from lorafuse_bench.mini_world.plain_text import documents, unmarked
from lorafuse_bench.mini_world.settings import BaseSettings, Course
from lorafuse_bench.mini_world.world import World
from lorafuse_bench.planning import Work
from lorafuse_bench.progress import duration, watching
from lorafuse_bench.training.estimate import of_training

Report = Callable[[str], None]


Example = tuple[list[int], list[float]]
"""Token ids of one document and the loss weight of each."""


def new_base(settings: BaseSettings, tokenizer: PreTrainedTokenizerBase, seed: int) -> Qwen2ForCausalLM:
    """A randomly initialised Qwen2 of these settings."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=settings.mlp_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.key_value_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": settings.rope_theta},
        initializer_range=settings.hidden_size**-0.5,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config)
    look_back(model)
    return model


LOOK_BACK_LOGIT = 5.0
"""How much more a head of the first block attends to its own distance than to the next one, at first."""


BRANCH = 0.1
"""First scale of what blocks add: embeddings are small, and must not drown in it."""


@torch.no_grad()
def look_back(model: Qwen2ForCausalLM) -> None:
    """Start the attention heads from what retrieval is made of; all of it stays trainable.

    Head h of the first block attends h + 1 tokens back: with rotary angles θ, a query bias c·(cos aθ, -sin aθ)
    and a key bias c·(cos bθ, sin bθ) give the logit c²·Σ_i cos((m - n - a - b)θ_i) for positions m and n,
    largest at n = m - a - b; b distinguishes the key heads, a the queries that share one. In later blocks keys
    start equal to queries, so that like attends to like. There and in the first query of every key head, a head
    hands on what it reads: O = Vᵀ. Without this start, a base of this size did not learn within its steps to
    copy from a story.
    """
    first, *later = (layer.self_attn for layer in model.model.layers)
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.mul_(BRANCH)
    angles = model.model.rotary_emb.inv_freq
    size, groups = first.head_dim, first.num_key_value_groups
    strength = (LOOK_BACK_LOGIT * size**0.5 / (1 - angles.cos()).sum()) ** 0.5
    for head in range(model.config.num_attention_heads):
        key_head, query = divmod(head, groups)
        keys, queries = slice(key_head * size, (key_head + 1) * size), slice(head * size, (head + 1) * size)
        b, a = (key_head + 1) * angles, query * model.config.num_key_value_heads * angles
        first.k_proj.bias[keys] = strength * torch.cat([b.cos(), b.sin()])
        first.q_proj.bias[queries] = strength * torch.cat([a.cos(), -a.sin()])
    for content in (first.q_proj, first.k_proj):
        content.weight.mul_(0.1)
    for attention in (first, *later):
        values = attention.v_proj.weight.view(-1, 1, size, attention.v_proj.in_features)
        handed = values.repeat(1, groups, 1, 1)
        if attention is first:
            # Two queries of one key head that wrote alike could not be told apart by what reads them.
            own = attention.o_proj.weight.T.view_as(handed)
            handed[:, 1:] = own[:, 1:]
        attention.o_proj.weight.copy_(handed.flatten(0, 2).T * BRANCH)
    for attention in later:
        queries = attention.q_proj.weight.view(-1, groups, size, attention.q_proj.in_features)
        attention.k_proj.weight.copy_(queries[:, 0].flatten(0, 1))


def weighted_tokens(document: str, tokenizer: PreTrainedTokenizerBase, settings: BaseSettings) -> Example:
    """Token ids of one marked document with end of text, and the loss weight of each.

    Undetermined tokens weigh `random_weight`. Every document has `document_weight` for its determined
    spans, in equal shares: a few one-word answers are not drowned by pages of translation.
    """
    text, determined = unmarked(document)
    encoded = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    weights = [settings.random_weight] * len(encoded.ids)
    inside = [determined[end - 1] for _, end in encoded.offsets]
    runs = [
        (is_span, list(members)) for is_span, members in groupby(range(len(inside)), key=inside.__getitem__)
    ]
    spans = [members for is_span, members in runs if is_span]
    for span in spans:
        for index in span:
            weights[index] = settings.document_weight / len(spans) / len(span)
    return [*encoded.ids, tokenizer.eos_token_id], [*weights, settings.random_weight]


def examples(
    world: World, tokenizer: PreTrainedTokenizerBase, settings: BaseSettings, course: Course, name: str
) -> Iterator[Example]:
    """The documents of a course in their order, without end."""
    for document in documents(world, name, course.shares, course.rhymes, course.asides):
        yield weighted_tokens(document, tokenizer, settings)


def batches(
    stream: Iterator[Example], steps: int, step_tokens: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """`steps` batches of (ids, weights), both (documents, tokens), padding weighing nothing.

    Every document is a row of its own, beside others of about its length; a batch has `step_tokens`.
    """
    rng = random.Random(f"lorafuse batches {seed}")
    left = steps
    while left > 0:
        group = sorted(islice(stream, 2000), key=lambda example: len(example[0]))
        made = [collate(rows) for rows in _cut(group, step_tokens)]
        rng.shuffle(made)
        yield from made[:left]
        left -= len(made)


def _cut(group: list[Example], step_tokens: int) -> Iterator[list[Example]]:
    """Consecutive examples, as many at a time as fit into `step_tokens` with padding."""
    rows: list[Example] = []
    for example in group:
        if rows and (len(rows) + 1) * len(example[0]) > step_tokens:
            yield rows
            rows = []
        rows.append(example)


def collate(rows: list[Example]) -> tuple[Tensor, Tensor]:
    """Rows padded on the right to one length; causal attention never looks at the padding."""
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in rows])
    weights = torch.tensor([weights + [0.0] * (width - len(weights)) for _, weights in rows])
    return ids, weights


def weighted_loss(logits: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of next-token cross entropies; logits (rows, tokens, vocab)."""
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    )
    weight = weights[:, 1:].flatten()
    return (losses * weight).sum() / weight.sum()


def learning_rate_at(step: int, course: Course) -> float:
    """Linear warm-up, then cosine down to a fiftieth."""
    if step < course.warmup_steps:
        return course.learning_rate * (step + 1) / course.warmup_steps
    progress = (step - course.warmup_steps) / max(1, course.steps - course.warmup_steps)
    return course.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def pretrain(
    world: World, tokenizer: PreTrainedTokenizerBase, settings: BaseSettings, seed: int, report: Report
) -> Qwen2ForCausalLM:
    """A base that has taken every course, each with documents of its own, each document read once."""
    model = new_base(settings, tokenizer, seed)
    for index, course in enumerate(settings.courses):
        name = f"train {seed}" + " again" * index
        stream = examples(world, tokenizer, settings, course, name)
        title = f"base: course {index + 1} of {len(settings.courses)}"
        read, trained = course.steps * settings.step_tokens, tuple(model.parameters())
        once = Work(1, settings.step_tokens, settings.step_tokens, train=True)
        taken = of_training(model, course.steps, read, once, trained)
        watching(report).part(taken.said(title), due=True)
        take_course(
            model, batches(stream, course.steps, settings.step_tokens, seed), settings, course, report
        )
    return model.eval()


def take_course(
    model: Qwen2ForCausalLM,
    stream: Iterator[tuple[Tensor, Tensor]],
    settings: BaseSettings,
    course: Course,
    report: Report,
) -> None:
    """Train on all batches of `stream`, with optimizers that start afresh."""
    optimizers = new_optimizers(model, settings)
    losses: list[float] = []
    start = time.monotonic()
    model.train()
    for step, (ids, weights) in enumerate(stream):
        loss = weighted_loss(model(input_ids=ids).logits, ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = learning_rate_at(step, course)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if (step + 1) % max(1, course.steps // 20) == 0 or step + 1 == course.steps:
            left = (time.monotonic() - start) / (step + 1) * (course.steps - step - 1)
            loss_now = sum(losses) / len(losses)
            text = f"base: step {step + 1}/{course.steps}, loss {loss_now:.3f}, {duration(left)} left"
            watching(report).part(text, due=True)
            losses.clear()


def new_optimizers(model: Qwen2ForCausalLM, settings: BaseSettings) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the blocks' matrices, AdamW for embeddings and vectors.

    In this small world Muon reached AdamW's loss in about two thirds of the steps.
    """
    blocks = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim < 2 or "embed" in name]
    return (
        Muon(blocks, weight_decay=settings.weight_decay),
        torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0),
    )


def parameter_count(model: torch.nn.Module) -> int:
    """Number of parameters, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
