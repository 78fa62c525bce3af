"""Consent to run code that a model wrote, asked for before a model or any data is loaded.

lm-eval's two signs of it are ours: its flag `--confirm_run_unsafe_code` and the variable of the code metric
that its tasks use, HF_ALLOW_CODE_EVAL=1.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.tasks.suites import CODE, PREFIX, SUITES, task_key

VARIABLE = "HF_ALLOW_CODE_EVAL"
FLAG = "--confirm_run_unsafe_code"


def ask(names: Iterable[str], confirmed: bool) -> None:
    """LorafuseError where suites or tasks among `names` run code and one of the two signs is missing."""
    names = set(names)
    wanted = {key for name in names for key in SUITES.get(name, (task_key(name),)) if name_runs(name, key)}
    missing = ([] if confirmed else [FLAG]) + ([] if allowed() else [f"{VARIABLE}=1"])
    if wanted and missing:
        raise LorafuseError(
            f"{' and '.join(sorted(wanted))} run code that the model writes, on this machine. To allow it, give"
            f" {' and set '.join(missing)}; for the other tasks of or_mtl, ask for or_mtl_no_code."
        )


def name_runs(name: str, key: str) -> bool:
    """Whether `key` of the suite or task `name` runs code; lm-eval's own tasks of that name ask by themselves."""
    return key in CODE and (name in SUITES or name.startswith(PREFIX))


def allowed() -> bool:
    """Whether the variable allows it."""
    return os.environ.get(VARIABLE) == "1"
