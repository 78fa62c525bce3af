"""One cell: lm-eval's run of one method on one suite, made into a result."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval import evaluator

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion.base import Prompts
from lorafuse_bench.leaderboards import measures
from lorafuse_bench.leaderboards.results import cell_files
from lorafuse_bench.leaderboards.results.assembly import assemble, filtered, lm_eval_config
from lorafuse_bench.leaderboards.results.samples import Sample, item_scores, of_lm_eval, write_samples
from lorafuse_bench.leaderboards.results.schema import Items, Result
from lorafuse_bench.memory import reset_peak
from lorafuse_bench.model_wrappers.blocks import Blocks
from lorafuse_bench.model_wrappers.hf import LorafuseLM
from lorafuse_bench.progress import Watcher
from lorafuse_bench.runner.kept import blocks_folder, remove_blocks
from lorafuse_bench.runner.plan import Cell, Plan
from lorafuse_bench.runner.provenance import SEEDS, made_of_sha256
from lorafuse_bench.tasks.facts import Suite
from lorafuse_bench.tasks.loading import load_tasks
from lorafuse_bench.tasks.suites import suite as suite_of
from lorafuse_bench.uncaught import one_line
from lorafuse_bench.zoo.manifest import ArtefactEntry, Zoo


class Evaluation:
    """One loaded base and the tasks of a plan's cells; `run` evaluates one of them and writes its result.

    Making it loads and checks all that the cells need: data, base, chat template, shapes of the experts, fits.
    What does not fit is a LorafuseError before anything was evaluated.
    """

    def __init__(self, plan: Plan, zoo: Zoo, source: str, cells: Sequence[Cell]) -> None:
        self.plan = plan
        self.suites = {name: suite_of(name) for name in dict.fromkeys(cell.suite for cell in cells)}
        self.tasks = {name: load_tasks(suite, source) for name, suite in self.suites.items()}
        self.lm = LorafuseLM(
            "base",
            zoo=plan.zoo,
            experts=(),
            data=plan.data,
            batch_size=plan.batch_size,
            device=plan.device,
            dtype=plan.dtype,
            max_length=plan.max_length,
        )
        if plan.chat_template:
            self.lm.chat_template(True)
        for pool in {id(cell.pool): cell.pool for cell in cells}.values():
            self._use(pool)
        for cell in cells:
            if {"fit", "task_id"} & cell.method.needed:
                self._try(cell)

    def run(self, cell: Cell, draft: Result, watcher: Watcher) -> Path:
        """Evaluate a cell and write its result, items and texts; answers of an earlier run that was killed count."""
        suite = self.suites[cell.suite]
        folder = blocks_folder(cell.path)
        folder /= made_of_sha256(draft, self.lm.zoo, torch.device(self.lm.device))
        with Blocks(folder, lambda text: watcher.say(f"{cell}: {text}")) as blocks:
            output, seconds = self.output(cell, watcher, blocks=blocks)
            seconds += blocks.seconds
            samples = output["samples"]
            speed = count_tokens(self.lm, samples) / seconds
            result, items = assemble(output, suite, seconds, speed, self.plan.num_fewshot)
            write_samples(cell.path, _texts(suite, result, items, samples))
            path = cell_files.write_cell(self.plan.out, result, items)
        remove_blocks(cell.path)
        return path

    def output(
        self,
        cell: Cell,
        watcher: Watcher,
        items: Mapping[str, Sequence[int]] | None = None,
        blocks: Blocks | None = None,
    ) -> tuple[dict[str, Any], float]:
        """lm-eval's results and samples of a cell, and the seconds they took; of some `items` of each leaf alone.

        Answers that `blocks` hold are not computed.
        """
        reset_peak(torch.device(self.lm.device))
        self._use(cell.pool)
        self.lm.use(cell.method)
        self.lm.bar, self.lm.blocks = watcher.bar, blocks or Blocks()
        self.lm.blocks.begin()
        start = time.perf_counter()
        loaded = self.tasks[cell.suite]
        if items is not None:
            loaded = {leaf: loaded[leaf] for leaf in items}
        output = _evaluate(self.lm, loaded, self.plan, items)
        return output, time.perf_counter() - start

    def _try(self, cell: Cell) -> None:
        """Fuse, and route a token of each task: the fit must be there and of these experts, one of them the task's."""
        tasks = tuple(self.suites[cell.suite].tasks)
        tokens = torch.full((len(tasks), 1), self.lm.eot_token_id, device=self.lm.device)
        self._use(cell.pool)
        try:
            self.lm.use(cell.method)
            self.lm.fused.select(Prompts(tokens, torch.ones_like(tokens[:, 0]), tasks))
        except Exception as error:  # tensors of other shapes or types make a method stumble over anything
            fits = [entry.name for entry in self.lm.fused.in_use if isinstance(entry, ArtefactEntry)]
            if one_line(error) is not None or not fits:
                raise
            reason = " ".join(str(error).split())[:200]
            raise LorafuseError(
                f"method '{cell.method.label()}' cannot use fit '{fits[0]}' of zoo '{self.lm.zoo.name}':"
                f" {type(error).__name__}: {reason}. Delete its entry and fit again."
            ) from error

    def _use(self, pool: ExpertPool) -> None:
        self.lm.fused = FusedModel.of(self.lm.fused, pool)


def _evaluate(
    lm: LorafuseLM,
    loaded: Mapping[str, Any],
    plan: Plan,
    items: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Any]:
    """lm-eval's results and samples, as `simple_evaluate` gives them for the same seeds, with our model's record.

    `simple_evaluate` itself would also describe the machine, for seconds and through git, in every cell.
    """
    random.seed(SEEDS.python)
    np.random.seed(SEEDS.numpy)
    torch.manual_seed(SEEDS.torch)
    for task in loaded.values():
        own = task.get_config("num_fewshot") or 0
        task.set_config(key="num_fewshot", value=own if plan.num_fewshot is None else plan.num_fewshot)
        task.set_fewshot_seed(seed=SEEDS.fewshot)
        if plan.generation and task.get_config("output_type") == "generate_until":
            task.set_config(key="generation_kwargs", value=dict(plan.generation), update=True)
    output = evaluator.evaluate(
        lm=lm,
        task_dict={"tasks": loaded, "groups": {}},
        limit=plan.limit if items is None else None,
        samples=None if items is None else {task: list(chosen) for task, chosen in items.items()},
        log_samples=True,
        bootstrap_iters=0,
        system_instruction=plan.system_instruction,
        apply_chat_template=plan.chat_template,
        fewshot_as_multiturn=plan.chat_template,
        confirm_run_unsafe_code=plan.run_code,
    )
    if output is None:
        raise LorafuseError(
            "only the first of several processes holds results. Run `lorafuse run` in one process."
        )
    config = lm_eval_config(
        SEEDS.model_dump(), limit=plan.limit, batch_size=plan.batch_size, gen_kwargs=plan.generation
    )
    return {**output, "config": config | {"lorafuse": lm.record()}}


def _texts(
    suite: Suite, result: Result, items: Items, samples: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[Sample]:
    """Prompts, targets and outputs of the suite's tasks, for reading side by side."""
    found = []
    for key, task in suite.tasks.items():
        measure = measures.named(str(result.tasks[key].metrics[task.metric].measure))
        scores = item_scores(items.root[key].metrics[task.metric], measure)
        found += of_lm_eval(key, filtered(samples[task.task], task.filter), scores)
    return found


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
