"""What a cell is made of: the fields of its result that do not depend on its scores."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.identity import identity, source_name
from lorafuse_bench.leaderboards import schema
from lorafuse_bench.runner.plan import Cell, Plan
from lorafuse_bench.tasks.suites import task_key
from lorafuse_bench.zoo.manifest import Zoo

_COMMIT = re.compile(r"@([0-9a-f]{40})/")


def inputs_of(plan: Plan, zoo: Zoo, cell: Cell, source: str) -> dict[str, Any]:
    """The fields of a result that are known before anything runs."""
    return {
        "suite": cell.suite,
        **identity(zoo, cell.pool, cell.method, plan.dtype),
        "data": {"source": source_name(zoo, source), "splits": {}},
        "limit": plan.limit,
        "max_length": plan.max_length or zoo.manifest.max_length,
        "batch_size": plan.batch_size,
    }


def check_same(path: Path, inputs: Mapping[str, Any]) -> None:
    """LorafuseError when a finished cell was made from other inputs than the plan's.

    A method's code may differ: its version says when its outputs do.
    """
    found = schema.read_result(path).model_dump(mode="json", by_alias=True)
    for field, wanted in inputs.items():
        have = found[field]
        if field == "data":
            have, wanted = have["source"], wanted["source"]
        if field == "method":
            have, wanted = ({**given, "source_sha256": ""} for given in (have, wanted))
        if field != "batch_size" and _plain(have) != _plain(wanted):
            raise LorafuseError(
                f"{path} was made with another {field} than asked for now. Choose another --out, or remove the file."
            )


def splits(loaded: Mapping[str, Any]) -> dict[str, Any]:
    """Task key to the files or hub revisions that served its splits."""
    return {task_key(name): dict(task.dataset.provenance) for name, task in sorted(loaded.items())}


def commit(task: Any) -> str | None:
    """The hub's commit in the addresses that a task's rows came from; None for rows from elsewhere."""
    checksums = task.dataset[task.config.test_split].info.download_checksums
    found = (_COMMIT.search(address) for address in checksums or ())
    return next((match.group(1) for match in found if match), None)


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
