"""What a model of ours writes down of the evaluation that it is asked for, for a result to be made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.tasks.data import hub_commit, provenance
from lorafuse_bench.tasks.suites import suite_of_leaves, task_key

# Options of the model that say where it is and how fast, not what it answers.
_PLACEMENT = frozenset(
    "parallelize device_map max_memory max_memory_per_gpu max_cpu_memory offload_folder low_cpu_mem_usage"
    " max_batch_size num_proc".split()
)


def asked_of(tasks: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """`suite`: what lm-eval was asked for; or `unscored`: why no result can be made of it."""
    groups = asked.get("task_dict", {}).get("groups") or {}
    try:
        return {"suite": suite_of_leaves(list(tasks), groups).model_dump(mode="json")}
    except LorafuseError as error:
        return {"unscored": str(error)}


def settings_of(asked: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """A result's `settings`, from the arguments of lm-eval's `evaluate` and the model's own options."""
    template = asked.get("apply_chat_template")
    return {
        "system_instruction": asked.get("system_instruction") or None,
        "chat_template": "default" if template is True else template or None,
        "fewshot_as_multiturn": bool(template and asked.get("fewshot_as_multiturn")),
        "model": {
            key: value if isinstance(value, str | int | float | bool | None) else str(value)
            for key, value in sorted(model.items())
            if key not in _PLACEMENT
        },
    }


def rows_of(tasks: Mapping[str, Any]) -> dict[str, Any]:
    """`splits`: task key to what served its splits so far; `revisions`: to the hub's commit, where it was the hub."""
    return {
        "splits": {task_key(name): provenance(task) for name, task in sorted(tasks.items())},
        "revisions": {task_key(name): _commit(task) for name, task in sorted(tasks.items())},
    }


def _commit(task: Any) -> str | None:
    """The hub's commit in the addresses that a task's rows came from; None for rows from elsewhere."""
    split = task.config.test_split or task.config.validation_split
    checksums = task.dataset[split].info.download_checksums
    return next((found for address in checksums or () if (found := hub_commit(address))), None)
