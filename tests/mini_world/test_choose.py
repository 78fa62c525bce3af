"""The rule for learning rate and steps, and the exactness it looks at."""

from __future__ import annotations

import torch
from tiny import byte_tokenizer, tiny_model

from lorafuse_bench.mini_world.choose import Candidate, choose, written_exactly


def candidate(norm: float, *exact: float) -> Candidate:
    return Candidate(1e-3, 100, norm, {str(i): share for i, share in enumerate(exact)})


def test_smallest_updates_among_those_that_reach_the_goal() -> None:
    small, middle, large = candidate(0.1, 1.0, 0.94), candidate(0.2, 0.95, 0.96), candidate(0.3, 1.0, 1.0)
    assert choose([large, small, middle]) == middle


def test_best_worst_expert_when_none_does() -> None:
    weak, better = candidate(0.1, 1.0, 0.5), candidate(0.2, 0.7, 0.6)
    assert choose([weak, better]) == better


def test_exactness_is_what_greedy_decoding_writes() -> None:
    model, tokenizer = tiny_model(), byte_tokenizer()
    examples = []
    for i in range(4):
        prompt = tokenizer.encode(f"prompt {i}" + "!" * i)
        ids = torch.tensor([prompt])
        for _ in range(3):
            ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
        written = ids[0, -3:].tolist()
        if i == 3:
            written[1] = (written[1] + 1) % 256
        examples.append({"input_ids": prompt + written, "labels": [-100] * len(prompt) + written})
    assert written_exactly(model, examples, tokenizer.pad_token_id) == 3
    assert written_exactly(model, examples[3:], tokenizer.pad_token_id) == 0
