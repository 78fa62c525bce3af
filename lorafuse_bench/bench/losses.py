"""The loss matrix of a zoo's experts against a loop over PEFT's adapters, on the same rows: `lorafuse bench losses`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from lorafuse_bench.bench.models import Shape, random_model, random_zoo
from lorafuse_bench.bench.timing import Timings, machine, paired, target
from lorafuse_bench.device import AUTO, Compute
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion.base import row_updates
from lorafuse_bench.loading import load_model, load_tokenizer
from lorafuse_bench.tasks.suites import suite as suite_of
from lorafuse_bench.training.examples import Example, PadRight, pad_token, tokenize
from lorafuse_bench.training.fit_rows import fit_rows
from lorafuse_bench.training.router_training import length_of
from lorafuse_bench.training.token_scores import loss_matrix, score_experts
from lorafuse_bench.zoo.manifest import Zoo
from lorafuse_bench.zoo.pools import experts_for

GOAL = 3.0
"""The loop's time over ours, at least."""


@dataclass(frozen=True)
class Both:
    """The same experts on the same base, ours and PEFT's."""

    fused: FusedModel
    peft: PeftModel

    @classmethod
    def random(cls, shape: Shape, experts: int) -> Both:
        """A random base and random experts, of which PEFT may train."""
        with tempfile.TemporaryDirectory() as folder:
            zoo, paths = random_zoo(Path(folder), shape, experts)
            return cls._of(zoo, ExpertPool.from_zoo(zoo), paths, [random_model(shape) for _ in range(2)])

    @classmethod
    def of_zoo(cls, zoo: Zoo, names: Sequence[str], compute: Compute) -> Both:
        """The zoo's base and those of its experts that `names` mean."""
        entries = {entry.name: entry for entry in zoo.manifest.experts}
        bases = [load_model(zoo.base_folder(), compute.dtype) for _ in range(2)]
        for base in bases:
            base.to(compute.device)  # type: ignore[arg-type]
        pool = ExpertPool.from_zoo(zoo, names).to(compute.device)
        return cls._of(zoo, pool, [zoo.root / entries[name].path for name in pool.names], bases)

    @classmethod
    def _of(
        cls, zoo: Zoo, pool: ExpertPool, folders: Sequence[Path], bases: Sequence[PreTrainedModel]
    ) -> Both:
        fused = FusedModel(bases[0].requires_grad_(False), zoo, pool)
        theirs = PeftModel.from_pretrained(bases[1], str(folders[0]), adapter_name="e0", is_trainable=True)
        for i, folder in enumerate(folders[1:], 1):
            theirs.load_adapter(str(folder), adapter_name=f"e{i}", is_trainable=True)
        theirs.set_adapter("e0")
        return cls(fused, theirs.eval())  # else an adapter's dropout is on


def run(
    zoo: str,
    suite: str,
    data: str,
    size: int = 8,
    rows: int = 4,
    rounds: int = 3,
    device: str = AUTO,
    dtype: str = AUTO,
) -> dict[str, Any]:
    """Seconds for the first `size` experts and tasks of a suite, on `rows` dev rows of each task, in turns.

    `largest_difference`: of the two matrices, in nats per token.
    """
    opened = Zoo.open(zoo)
    tasks = tuple(suite_of(suite).tasks)[:size]
    names = experts_for(opened, tasks)
    folder = opened.base_folder()
    compute = Compute.of(device, dtype, folder)
    both = Both.of_zoo(opened, names, compute)
    tokenizer, length = load_tokenizer(str(folder)), length_of(opened, both.fused.model)
    examples = [tokenize(each.dev, tokenizer, length) for each in fit_rows(tasks, data, None, rows)]
    pad = pad_token(tokenizer)
    difference = float((ours(both, examples) - loop(both, examples, pad)).abs().max())
    times = compare(both, examples, rounds, pad)
    return {
        "schema": "lorafuse.bench.losses/1",
        "machine": machine(),
        "zoo": opened.name,
        "suite": suite,
        **compute.record(),
        "experts": len(names),
        "tasks": len(tasks),
        "rows": rows,
        "rounds": rounds,
        "largest_difference": difference,
        "losses": times.against("peft"),
        "targets": [loop_over_ours(times)],
    }


def compare(both: Both, tasks: Sequence[list[Example]], rounds: int, pad: int = 0) -> Timings:
    """The matrix in turns: `ours`, and the loop over PEFT's adapters."""
    return paired(
        {"peft": lambda: loop(both, tasks, pad), "ours": lambda: ours(both, tasks)}, rounds, warmup=0
    )


def loop_over_ours(times: Timings) -> dict[str, Any]:
    """The goal's line in a report."""
    return target("PEFT's loop over the loss matrix", times.ratio("peft", "ours"), at_least=GOAL)


def ours(both: Both, tasks: Sequence[list[Example]]) -> Tensor:
    """`(experts, tasks)` nats per token, as `lorafuse fit losses` finds them."""
    fused, updates = both.fused, row_updates(both.fused.pool, both.fused)
    scores = [score_experts(fused, examples, fused.model.dtype, updates) for examples in tasks]
    return loss_matrix(fused.pool.names, [str(i) for i in range(len(tasks))], scores).losses


@torch.no_grad()
def loop(both: Both, tasks: Sequence[list[Example]], pad: int = 0) -> Tensor:
    """The same by PEFT: each adapter made active, a task's rows in one padded batch, the loss as the model gives it."""
    device = both.fused.model.device
    batches = [{key: x.to(device) for key, x in PadRight(pad)(examples).items()} for examples in tasks]
    found = []
    for name in list(both.peft.peft_config):
        both.peft.set_adapter(name)
        found.append(torch.stack([cast(Tensor, both.peft(**batch).loss) for batch in batches]))
    both.peft.set_adapter("e0")
    return torch.stack(found)
