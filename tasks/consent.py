"""Consent to run code that a model wrote, asked for before a model or any data is loaded.

lm-eval's two signs of it are ours: its flag `--confirm_run_unsafe_code` and the variable of the code metric
that its tasks use, HF_ALLOW_CODE_EVAL=1.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.tasks import catalogue
from lorafuse_bench.tasks.facts import Suite
from lorafuse_bench.tasks.suites import suite

VARIABLE = "HF_ALLOW_CODE_EVAL"
FLAG = "--confirm_run_unsafe_code"


def ask(tasks: Iterable[Any], confirmed: bool) -> None:
    """LorafuseError where suites or tasks run code and one of the two signs is missing.

    `tasks` are suites, names of ours, or anything else that lm-eval takes for a task.
    """
    keys = {key for task in tasks for key in _runs_code(task)}
    missing = ([] if confirmed else [FLAG]) + ([] if allowed() else [f"{VARIABLE}=1"])
    if keys and missing:
        raise LorafuseError(
            f"{', '.join(sorted(keys))}: code that the model writes would run on this machine. To allow it, give"
            f" {' and set '.join(missing)}; for the rest of or_mtl, ask for or_mtl_no_code."
        )


def _runs_code(task: Any) -> list[str]:
    """Keys of the tasks that run code, of a suite, a leaf or a loaded task; by name lm-eval's own ask themselves."""
    name = str(getattr(task, "task_name", task))
    known = task if isinstance(task, Suite) else suite(name) if name in catalogue.ours() else None
    return [key for key, each in known.tasks.items() if each.runs_code] if known else []


def allowed() -> bool:
    """Whether the variable allows it."""
    return os.environ.get(VARIABLE) == "1"
