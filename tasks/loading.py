"""The tasks of a suite as lm-eval runs them, loaded without indexing all of its own."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import lru_cache
from typing import Any

import lm_eval.api.task
import lm_eval.utils
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Entry, TaskIndex
from lm_eval.tasks._yaml_loader import load_yaml

from lorafuse_bench import plugin
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.tasks.answers import refuse_strays, scored_by_lm_eval
from lorafuse_bench.tasks.facts import Suite
from lorafuse_bench.tasks.members import INSIDE
from lorafuse_bench.tasks.nulls import refuse_nulls

plugin.serve_rows(lm_eval.api.task)  # also where the plugin is switched off
# lm-eval compiles a prompt's template for every document, which takes longer than to fill it in.
lm_eval.utils.env.from_string = lru_cache(maxsize=1024)(lm_eval.utils.env.from_string)


def load_tasks(suite: Suite, source: str) -> dict[str, Any]:
    """lm-eval's name of each task to the task, its rows from `source` (see `data.resolve_source`).

    A suite of a file is loaded as lm-eval loads that group, with all that the group changes in its tasks.
    LorafuseError for a task that cannot be loaded, has no rows, or reports its metric the other way round.
    """
    manager = TaskManager(include_defaults=False, metadata={"data": source})
    for name, path in suite.files.items():
        entry = TaskIndex.entry_from_path(path)
        if entry is None:
            raise LorafuseError(f"{path}: no task or group of lm-eval's. Correct the file.")
        manager.task_index[name] = replace(entry, name=name)
    wanted = [suite.name]
    if suite.name not in suite.files:  # tasks by name; those that a group defines come of that group alone
        families = {leaf.rpartition(INSIDE)[0] for leaf in suite.leaves} - {""}
        for name in families:
            manager.task_index[name] = _narrowed(manager.task_index[name], suite.tasks.keys())
        wanted = [*families, *(leaf for leaf in suite.leaves if INSIDE not in leaf)]
    try:
        found = _load(manager, wanted)
    except Exception as error:
        raise _first_fault(manager, suite, error) from error
    for key, definition in suite.tasks.items():
        _check(key, definition.metric, definition.direction, found[definition.task])
        refuse_nulls(found[definition.task])
        refuse_strays(found[definition.task])
    return found


def _narrowed(entry: Entry, keys: AbstractSet[str]) -> Entry:
    """A group of lm-eval's with only these of the tasks that it defines."""
    config = entry.cfg if entry.yaml_path is None else load_yaml(entry.yaml_path)
    assert config is not None
    kept = [task for task in config["task"] if isinstance(task, dict) and task.get("task") in keys]
    return replace(entry, yaml_path=None, cfg={**config, "task": kept})


def _load(manager: TaskManager, names: Sequence[str]) -> dict[str, Any]:
    return dict(manager.load(list(names))["tasks"])


def _load_alone(manager: TaskManager, leaf: str) -> None:
    """Load one task; one that a group defines comes of that group."""
    family, _, key = leaf.rpartition(INSIDE)
    whole = manager.task_index.get(family)
    if whole:
        manager.task_index[family] = _narrowed(whole, {key})
    try:
        _load(manager, [family or leaf])
    finally:
        if whole:
            manager.task_index[family] = whole


def _first_fault(manager: TaskManager, suite: Suite, error: Exception) -> LorafuseError:
    """What is wrong with the first task that does not load alone; else with the suite."""
    where = f"suite '{suite.name}'"
    for leaf in suite.leaves if not isinstance(error, LorafuseError) else ():
        try:
            _load_alone(manager, leaf)
        except Exception as alone:
            where, error = f"task '{leaf}'", alone
            break
    if isinstance(error, LorafuseError):
        return error
    logging.getLogger(__name__).debug("%s does not load", where, exc_info=error)
    reason = " ".join(str(error).split())[:200]
    if isinstance(error, IndexError):
        return LorafuseError(f"{where} has no rows to evaluate. Check its splits and its data source.")
    return LorafuseError(
        f"{where} cannot be loaded: {type(error).__name__}: {reason}."
        " Correct its file, or check the connection or data=."
    )


def _check(key: str, metric: str, direction: str, task: Any) -> None:
    up = task.higher_is_better()
    if metric not in up:
        raise LorafuseError(
            f"task '{key}' reports no '{metric}', but {', '.join(up)}. Name another metric for it."
        )
    if scored_by_lm_eval(task) and task._metric_fn_list.get(metric) is None:
        raise LorafuseError(
            f"task '{key}': lm-eval knows no metric '{metric}'. Correct the name in its metric_list."
        )
    if up[metric] is not None and up[metric] is not (direction == "up"):
        raise LorafuseError(
            f"task '{key}': direction '{direction}' contradicts its metric {metric}. Correct it."
        )
