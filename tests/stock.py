"""The stock route: what the `lm_eval` command leaves behind, made in this process."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager


def stock(out: Path, tasks: list[str], include: Path | None = None, **asked: Any) -> Path:
    """Evaluate tasks or groups with `--model lorafuse` and return the results file.

    `zoo`, `data`, `method` and the like go into the model's arguments, everything else to `simple_evaluate`.
    """
    names = ("method", "expert", "zoo", "data", "experts", "max_length")
    model_args = {name: str(asked.pop(name)) for name in names if name in asked}
    folders = [str(files("lorafuse_bench.tasks")), *([str(include)] if include else [])]
    manager = TaskManager(include_defaults=False, include_path=folders, metadata=model_args)
    tracker = EvaluationTracker(output_path=str(out))
    settings = {"batch_size": 4, "device": "cpu", "bootstrap_iters": 0, "log_samples": True, **asked}
    output = lm_eval.simple_evaluate(
        "lorafuse", model_args, tasks=tasks, task_manager=manager, evaluation_tracker=tracker, **settings
    )
    assert output is not None
    samples = output.pop("samples")
    tracker.save_results_aggregated(results=output, samples=samples)
    for name, rows in samples.items():
        tracker.save_results_samples(task_name=name, samples=rows)
    (path,) = out.rglob("results_*.json")
    return path
