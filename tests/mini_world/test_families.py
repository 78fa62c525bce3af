"""Tasks beyond the named nine come from families, as many as are asked for."""

from __future__ import annotations

import random

import pytest

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.mini_world.families import family_tasks, reorder
from lorafuse_bench.mini_world.splits import MTL7, mini_tasks
from lorafuse_bench.mini_world.world import Event, make_world

WORLD = make_world(0)


def test_counts_and_order() -> None:
    keys = [task.key for task in mini_tasks(32)]
    assert len(set(keys)) == 32 and tuple(keys[:7]) == MTL7 and keys[7:9] == ["gsm8k", "dialogue"]
    assert keys[:16] == [task.key for task in mini_tasks(16)]
    families = {key.split("_")[0] for key in keys[9:16]}
    assert families == {"extract", "translate", "drop", "order", "swap"}


@pytest.mark.parametrize("count", [0, 1000])
def test_too_many_or_none_is_refused(count: int) -> None:
    with pytest.raises(LorafuseError, match="mini tasks asked for"):
        mini_tasks(count)


def test_every_family_task_is_another_operation() -> None:
    event = WORLD.event(random.Random("one event"))
    results = [task.operation(WORLD, event) for task in family_tasks()]
    assert len(set(results)) == len(results)
    assert len({task.instruction for task in family_tasks()}) == len(results)


def test_reorder_by_hand() -> None:
    event = Event("ann", "cutted", "red", "cake", "rome")
    assert reorder(("place", "noun"), WORLD, event) == ("ann cutted the red cake in rome .", "rome cake .")
