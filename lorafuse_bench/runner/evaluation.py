"""One cell: lm-eval's run of one method on one suite, made into a result."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.identity import environment, routers
from lorafuse_bench.leaderboards import schema
from lorafuse_bench.leaderboards.lm_eval_results import items_of, seeds_of, task_of
from lorafuse_bench.leaderboards.samples import Sample, of_lm_eval, write_samples
from lorafuse_bench.memory import peak_bytes, reset_peak
from lorafuse_bench.model_wrappers.hf import LorafuseLM
from lorafuse_bench.runner.plan import Cell, Plan
from lorafuse_bench.runner.provenance import commit, inputs_of, splits
from lorafuse_bench.tasks.suites import OPTIONS, leaf_tasks, representative, suite_tasks, task_key
from lorafuse_bench.zoo.manifest import Zoo


def run_cell(plan: Plan, zoo: Zoo, lm: LorafuseLM, cell: Cell, source: str) -> Path:
    """Evaluate a cell and write its result and items."""
    suite = cell.suite
    device = torch.device(lm.device)
    reset_peak(device)
    lm.use(cell.method)
    manager = TaskManager(
        include_defaults=False, include_path=str(files("lorafuse_bench.tasks")), metadata={"data": source}
    )
    loaded = manager.load(list(leaf_tasks(suite)))["tasks"]
    start = time.perf_counter()
    output = simple_evaluate(
        model=lm,
        tasks=list(loaded.values()),
        task_manager=manager,
        limit=plan.limit,
        log_samples=True,
        bootstrap_iters=0,
        confirm_run_unsafe_code=plan.run_code,
    )
    seconds = time.perf_counter() - start
    if output is None:
        raise LorafuseError(
            "only the first of several processes holds results. Run `lorafuse run` in one process."
        )
    samples = output["samples"]
    items = schema.Items({key: items_of(samples, key) for key in suite_tasks(suite)})
    revisions = {task_key(name): commit(task) for name, task in loaded.items()}
    inputs = inputs_of(plan, zoo, cell, source)
    inputs["data"]["splits"] = splits(loaded)
    result = schema.Result.of(
        items,
        **inputs,
        routers=routers(lm.fused),
        seeds=seeds_of(output["config"]),
        cost={
            "fuse_seconds": lm.fused.fuse_seconds,
            "eval_seconds": seconds,
            "tokens_per_second": count_tokens(lm, samples) / seconds,
            "peak_bytes": peak_bytes(device),
            "extra_parameters": lm.fused.extra_parameters,
        },
        environment=environment(device),
        tasks={
            key: task_of(suite, key, output, items.root[key], revisions[key]) for key in suite_tasks(suite)
        },
    )
    write_samples(cell.path, _texts(suite, samples))
    return schema.write_cell(plan.out, result, items)


def _texts(suite: str, samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Sample]:
    """Prompts, targets and outputs of the suite's tasks, for reading side by side."""
    return [
        row
        for key in suite_tasks(suite)
        for name in samples
        if task_key(name) == key and not name.endswith(OPTIONS)
        for row in of_lm_eval(key, samples[name], representative(suite, key))
    ]


def count_tokens(lm: LorafuseLM, samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> int:
    """Tokens of all requests: context and continuation, given or generated."""
    texts = [
        text
        for rows in samples.values()
        for row in rows
        for request, responses in zip(row["arguments"], row["resps"], strict=True)
        for text in (*request, *responses)
        if isinstance(text, str)
    ]
    return sum(len(ids) for ids in lm.tokenizer(texts)["input_ids"]) if texts else 0
