"""The tasks of a suite as lm-eval runs them, loaded without indexing all of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import TaskIndex

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.tasks.suites import Suite


def load_tasks(suite: Suite, source: str) -> dict[str, Any]:
    """lm-eval's name of each task to the task, its rows from `source` (see `data.resolve_source`).

    A suite of a file is loaded as lm-eval loads that group, with all that the group changes in its tasks.
    """
    manager = TaskManager(include_defaults=False, metadata={"data": source})
    for name, path in suite.files.items():
        entry = TaskIndex.entry_from_path(path)
        if entry is None:
            raise LorafuseError(f"{path}: no task or group of lm-eval's. Correct the file.")
        manager.task_index[name] = replace(entry, name=name)
    wanted = [suite.name] if suite.name in suite.files else list(suite.leaves)
    return dict(manager.load(wanted)["tasks"])
