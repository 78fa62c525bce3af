"""Prompts of tasks, as the model reads them in evaluation, for analyses that look inside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from lm_eval.defaults import DEFAULT_OTHER_SEED
from torch.nn.utils.rnn import pad_sequence

from lorafuse_bench.device import AUTO, Compute
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion.base import Prompts
from lorafuse_bench.loading import load_tokenizer
from lorafuse_bench.tasks.borrowed import PART
from lorafuse_bench.tasks.rows import load_task
from lorafuse_bench.tasks.suites import task as task_of
from lorafuse_bench.training.adapter_training import load_base
from lorafuse_bench.training.router_training import length_of
from lorafuse_bench.truncation import truncate
from lorafuse_bench.zoo.manifest import Zoo


def evaluation_prompts(
    fused: FusedModel, keys: Iterable[str], source: str, samples: int, cutoff: int | None = None
) -> dict[str, list[list[int]]]:
    """Task key to token ids of `samples` evaluated prompts, cut where they exceed the cutoff, or the zoo's length."""
    tokenizer: Any = load_tokenizer(str(fused.zoo.base_folder()))
    longest = cutoff or length_of(fused.zoo, fused.model)
    return {
        key: [
            truncate(tokenizer(text)["input_ids"], longest)
            for text in contexts(load_task(task_of(key).task, source), samples)
        ]
        for key in keys
    }


def padded(fused: FusedModel, rows: Sequence[Sequence[int]], tasks: Sequence[str]) -> Prompts:
    """One batch of token ids on the model's device, padded at the right; a task key for every row."""
    ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True).to(fused.model.device)
    lengths = torch.tensor([len(row) for row in rows], device=fused.model.device)
    return Prompts(ids, lengths, tuple(tasks))


def read_in_batches(
    fused: FusedModel, task: str, rows: Sequence[Sequence[int]], batch: int
) -> Iterator[Prompts]:
    """Have the model read prompts of one task under the method in use, and yield each batch after it was read."""
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        inputs = padded(fused, part, [task] * len(part))
        fused.selection.set(fused.select(inputs))
        fused.model.base_model(input_ids=inputs.input_ids, attention_mask=inputs.mask.long(), use_cache=False)
        yield inputs


def contexts(task: Any, samples: int) -> list[str]:
    """What evaluation shows the model before its answer, examples included, for `samples` documents of an lm-eval task.

    The parts of a joined task take turns, so that each has its share.
    """
    task.set_fewshot_seed(DEFAULT_OTHER_SEED)
    task.build_all_requests(samples=in_turns([doc.get(PART) for doc in task.eval_docs], samples))
    shown: dict[int, str] = {}
    for request in task.instances:  # one per answer to choose from, in the order of the documents
        shown.setdefault(request.doc_id, request.args[0])
    return list(shown.values())


def with_experts(
    zoo: Zoo, device: str = AUTO, dtype: str = AUTO, names: Sequence[str] | None = None
) -> FusedModel:
    """The zoo's base with its experts, or those named; device and dtype: see `lorafuse_bench.device`."""
    folder = zoo.base_folder()
    pool = ExpertPool.from_zoo(zoo, names)
    return FusedModel(load_base(folder, Compute.of(device, dtype, folder)), zoo, pool)


def in_turns(parts: Iterable[str | None], samples: int) -> list[int]:
    """Positions of the first document of every part, then of every second one, and so on, until there are `samples`."""
    seen: Counter[str | None] = Counter()
    turns = []
    for position, part in enumerate(parts):
        turns.append((seen[part], position))
        seen[part] += 1
    return sorted(position for _, position in sorted(turns)[:samples])
