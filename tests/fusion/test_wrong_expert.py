"""`oracle:wrong`: every task under the next task's expert, a floor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from agreement import check
from dense import expert_delta, load_base, with_delta
from one_map import random_experts
from tiny import tiny_zoo

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.routing.oracle import Oracle
from lorafuse_bench.model_wrappers.hf import LorafuseLM


def test_every_task_runs_under_the_next_tasks_expert(tmp_path: Path) -> None:
    zoo = tiny_zoo(tmp_path, mixed=True)
    base = load_base(zoo.root)
    entries = zoo.manifest.experts
    following = {
        entry.tasks[0]: with_delta(base, expert_delta(zoo.root / other.path))
        for entry, other in zip(entries, entries[1:] + entries[:1], strict=True)
    }
    lm = LorafuseLM("base", zoo=zoo.root, device="cpu")
    check(lm, "oracle:wrong", lambda task, context: following[task])


def test_another_expert_of_the_same_task_is_not_wrong_enough() -> None:
    experts = random_experts(3)
    experts[1] = replace(experts[1], tasks=experts[0].tasks)
    pool = ExpertPool(experts)
    assert Oracle(wrong=True).expert_of(pool, experts[0].tasks[0]) == 2
    assert Oracle(wrong=True).expert_of(pool, experts[2].tasks[0]) == 0


def test_one_task_has_no_wrong_expert(tmp_path: Path) -> None:
    zoo = tiny_zoo(tmp_path, experts=1)
    LorafuseLM("oracle", zoo=zoo.root, device="cpu")
    with pytest.raises(LorafuseError, match=r"'oracle': wrong=true needs experts of two tasks.*sst2"):
        LorafuseLM("oracle", wrong=True, zoo=zoo.root, device="cpu")


def test_it_is_a_floor_with_a_label_of_its_own() -> None:
    right, wrong = registry.parse("oracle"), registry.parse("oracle:wrong")
    assert (right.family, right.label()) == ("reference", "oracle")
    assert (wrong.family, wrong.label()) == ("floor", "oracle:wrong=true")
    assert not right.laws_broken


def test_it_hangs_on_the_order_of_the_experts_as_it_declares() -> None:
    experts = random_experts(3)
    task = experts[0].tasks[0]
    names = {
        ExpertPool(order).names[Oracle(wrong=True).expert_of(ExpertPool(order), task)]
        for order in (experts, experts[::-1])
    }
    assert names == {"e1", "e2"}
    assert set(registry.parse("oracle:wrong").laws_broken) == {"one expert is itself", "order of the experts"}
