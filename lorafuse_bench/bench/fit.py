"""What a fit costs: steps against PEFT's, the loss matrix against a loop over adapters, cached weights against none."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from lorafuse_bench.bench.losses import Both, compare, loop_over_ours
from lorafuse_bench.bench.models import Shape, random_model, random_zoo
from lorafuse_bench.bench.timing import Timings, machine, paired, target
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion.base import row_updates, static_updates
from lorafuse_bench.fusion.ensembling.ensemble import mixture_loss
from lorafuse_bench.fusion.fitted import WEIGHT_RATES, MakeUpdates
from lorafuse_bench.fusion.merging.merge_sgd import MergeSgd
from lorafuse_bench.fusion.routing.routing_sgd import RoutingSgd, routed
from lorafuse_bench.layers import Update
from lorafuse_bench.memory import Alive
from lorafuse_bench.training.descent import LanguageLoss, Mixture
from lorafuse_bench.training.examples import IGNORED, Example, PadRight
from lorafuse_bench.training.loss import completion_loss
from lorafuse_bench.training.token_scores import score_experts

GOALS = {"merge_sgd": 1.3, "routing_sgd": 1.8, "weights": 20.0, "memory": 1.1}
"""A step's time over PEFT's at most; the loop's time over ours at least; bytes over the experts' own at most."""
EPOCHS = 5


def run(
    shape: Shape,
    experts: int = 10,
    batch: int = 8,
    tokens: int = 128,
    matrix: int = 32,
    rows: int = 4,
    rounds: int = 5,
    library: int = 256,
    opening: int = 0,
) -> dict[str, Any]:
    """Times in turns: steps with `experts` experts, and `matrix` experts on as many tasks of `rows` rows each.

    A task's rows begin with the same `opening` tokens, as with an instruction. And what `library` experts of rank 4
    take in memory, on a small base of the same make.
    """
    few = Both.random(shape, experts)
    steps = paired(_steps(few, _examples(shape, batch, tokens, 0)), rounds)
    many = Both.random(shape, matrix)
    tasks = [_examples(shape, rows, tokens, task + 1, opening) for task in range(matrix)]
    losses = compare(many, tasks, rounds)
    weights = paired(
        {
            "each epoch": lambda: _weights(few.fused, tasks[0], once=False),
            "cached": lambda: _weights(few.fused, tasks[0], once=True),
        },
        rounds,
        warmup=0,
    )
    kept = memory(replace(shape, hidden_size=64, layers=2, rank=4), library)
    return {
        "schema": "lorafuse.bench.fit/3",
        "machine": machine(),
        "shape": vars(shape),
        "experts": experts,
        "batch": batch,
        "tokens": tokens,
        "matrix": matrix,
        "rows": rows,
        "opening": opening,
        "rounds": rounds,
        "step": steps.against("peft"),
        "losses": losses.against("peft"),
        "weights": weights.against("each epoch"),
        "library": library,
        "memory": kept,
        "targets": _targets(steps, losses, weights, kept, library),
    }


def _targets(
    steps: Timings, losses: Timings, weights: Timings, kept: Mapping[str, float], library: int
) -> list[dict[str, Any]]:
    """What the goals ask, and whether it is met."""
    return [
        *(
            target(f"step of {name} over PEFT's", steps.ratio(name, "peft"), at_most=GOALS[name])
            for name in ("merge_sgd", "routing_sgd")
        ),
        loop_over_ours(losses),
        target(
            "experts run each epoch over cached weights",
            weights.ratio("each epoch", "cached"),
            at_least=GOALS["weights"],
        ),
        *(
            target(
                f"bytes of {library} experts under {name} over their own",
                kept[name],
                at_most=GOALS["memory"],
            )
            for name in kept
        ),
    ]


def memory(shape: Shape, experts: int) -> dict[str, float]:
    """What loading takes at most, and what the pool and a fit's updates hold, over the experts' own bytes.

    By what is fitted; the base and what is learned apart.
    """
    with tempfile.TemporaryDirectory() as folder:
        zoo, _ = random_zoo(Path(folder), shape, experts)
        with Alive() as alive:
            pool = ExpertPool.from_zoo(zoo)
        fused = FusedModel(random_model(shape), zoo, pool)
    stacks = [factor for stack in pool.modules.values() for factor in (stack.A, stack.B)]
    own = sum(factor.nbytes for factor in stacks)
    fitted = {
        "losses": row_updates(pool, fused),
        "merge_sgd": static_updates(MergeSgd().merged(pool, MergeSgd().start(fused))),
        "routing_sgd": routed(pool, RoutingSgd().start(fused), experts),
    }
    return {"loading": alive.peak / own} | {
        name: _stored([*stacks, *(b for update in updates.values() for b in _fixed(update))]) / own
        for name, updates in fitted.items()
    }


def _fixed(update: Update) -> list[Tensor]:
    """What an update holds that is not learned."""
    return [tensor for name, tensor in update.named_buffers() if name != "probes"]


def _stored(tensors: list[Tensor]) -> int:
    """Bytes of the tensors' memory, what several are views of counted once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def _steps(both: Both, examples: list[Example]) -> dict[str, Callable[[], None]]:
    """One step of Adam on the batch: PEFT's one adapter, and what is fitted on all experts."""
    batch = PadRight(0)(examples)
    pool, base = both.fused.pool, both.fused
    makers: dict[str, tuple[dict[str, Tensor], MakeUpdates]] = {
        "merge_sgd": (
            MergeSgd().start(base),
            lambda found: static_updates(MergeSgd().merged(pool, found)),
        ),
        "routing_sgd": (RoutingSgd().start(base), lambda found: routed(pool, found, len(pool))),
    }
    fitted = {name: _step(LanguageLoss(base, start, make), batch) for name, (start, make) in makers.items()}
    return {"peft": _step(_Peft(both.peft), batch), **fitted}


class _Peft(nn.Module):
    """PEFT's active adapter under the loss that ours are fitted by."""

    def __init__(self, model: PeftModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        loss, count = completion_loss(self.model, **batch)
        return {"loss": loss / count}


def _step(objective: nn.Module, batch: dict[str, Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.Adam([p for p in objective.parameters() if p.requires_grad], 1e-4)

    def step() -> None:
        objective(**batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _weights(fused: FusedModel, examples: list[Example], once: bool) -> None:
    """Weights of an ensemble at every rate of the fit, with the experts run once or in each epoch."""
    scores = score_experts(fused, examples, torch.float32).log_probabilities if once else None
    for rate in WEIGHT_RATES:
        mixture = Mixture({"logits": torch.zeros(len(fused.pool))}, mixture_loss, torch.device("cpu"))
        optimizer = torch.optim.Adam(mixture.parameters(), rate)
        for _ in range(EPOCHS):
            now = scores
            if now is None:
                now = score_experts(fused, examples, torch.float32).log_probabilities
            mixture(scores=now)["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()


def _examples(shape: Shape, rows: int, tokens: int, seed: int, opening: int = 0) -> list[Example]:
    """Random rows that begin with the same `opening` tokens, the last quarter of each its target."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(shape.vocabulary, (rows, tokens), generator=generator)
    ids[:, :opening] = ids[:1, :opening]
    prompt = tokens - tokens // 4
    return [{"input_ids": row, "labels": [IGNORED] * prompt + row[prompt:]} for row in ids.tolist()]
