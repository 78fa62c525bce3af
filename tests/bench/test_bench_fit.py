"""The benchmark of fits at toy size: what is timed runs, and both sides score alike."""

from __future__ import annotations

import pytest
import torch

from lorafuse_bench.bench.fit import Both, _examples, memory, run
from lorafuse_bench.bench.models import Shape
from lorafuse_bench.training.examples import PadRight
from lorafuse_bench.training.loss import target_logits
from lorafuse_bench.training.token_scores import score_experts

SHAPE = Shape(hidden_size=64, layers=2, vocabulary=64, rank=2)


def test_every_goal_is_measured() -> None:
    found = run(SHAPE, experts=2, batch=2, tokens=8, matrix=2, rows=2, rounds=1, library=3)
    assert len(found["targets"]) == 8
    assert all(line["value"] > 0 for line in found["targets"])


def test_memory_counts_what_is_held_once() -> None:
    """One stack holds the factors, which the updates of rows and of gates share; a merge holds one adapter more."""
    found = memory(SHAPE, 16)
    assert found["merge_sgd"] == pytest.approx(1 + 1 / 16)
    assert found["losses"] == 1
    assert found["routing_sgd"] == pytest.approx(1, rel=1e-3)  # and a byte an expert: whether it is absent
    assert 1 < found["loading"] < 1.2  # one expert's file is open at a time


@pytest.mark.parametrize("opening", [0, 24])
def test_the_loss_matrix_is_what_pefts_loop_finds(opening: int) -> None:
    both = Both.of(SHAPE, 2)
    examples = [*_examples(SHAPE, 3, 40, 0, opening), *_examples(SHAPE, 1, 12, 1)]
    read: list[int] = []
    both.fused.model.get_input_embeddings().register_forward_pre_hook(lambda _, x: read.append(x[0].numel()))
    ours = score_experts(both.fused, examples, torch.float32).log_probabilities
    for i, scores in enumerate(ours):
        both.peft.set_adapter(f"e{i}")
        with torch.no_grad():
            logits, targets = target_logits(both.peft, **PadRight(0)(examples))
        torch.testing.assert_close(scores, logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0])
    once = 2 * (opening + 3 * (39 - opening) + 11)  # of every row all but the last token
    assert once <= sum(read) <= once + 2 * 30  # and padding
