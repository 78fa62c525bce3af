"""Which experts are fused where none are named: those of the tasks asked for, in every command."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from lm_eval import evaluate, simple_evaluate
from lm_eval.tasks import TaskManager
from tiny import tiny_zoo

from lorafuse_bench import runner
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion import registry
from lorafuse_bench.leaderboards.results.cell_files import read_result
from lorafuse_bench.model_wrappers.hf import LorafuseLM
from lorafuse_bench.runner import plan as plans
from lorafuse_bench.tasks.suites import suite as suite_of
from lorafuse_bench.zoo.manifest import Zoo
from lorafuse_bench.zoo.pools import experts_for, untrained


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return tiny_zoo(tmp_path_factory.mktemp("zoo"), experts=4)


def evaluated(lm: LorafuseLM, tasks: tuple[str, ...], limit: int = 2) -> dict[str, Any]:
    manager = TaskManager(
        include_defaults=False, include_path=str(files("lorafuse_bench.tasks")), metadata={"data": "mini"}
    )
    loaded = list(manager.load(list(tasks))["tasks"].values())
    found = simple_evaluate(lm, tasks=loaded, limit=limit, bootstrap_iters=0)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("tasks", "names"),
    [
        (("sst2", "mnli"), ("sst2", "mnli")),
        (("mnli", "sst2", "arc_easy"), ("sst2", "mnli")),
        (("arc_easy",), ("sst2", "mnli", "squad", "piqa")),
        (("mmlu", "ifeval"), ("sst2", "mnli", "squad", "piqa")),
    ],
)
def test_the_rule(zoo: Zoo, tasks: tuple[str, ...], names: tuple[str, ...]) -> None:
    assert experts_for(zoo, tasks) == names


def test_both_commands_fuse_the_same_and_score_the_same(zoo: Zoo, tmp_path: Path) -> None:
    suite = "sst2/mnli"
    plan = runner.Plan(
        methods=[registry.parse("concat")],
        suites=[suite],
        out=tmp_path,
        zoo=zoo.root,
        data="mini",
        limit=2,
        batch_size=4,
    )
    (path,) = runner.run(plan)
    result = read_result(path)
    lm = LorafuseLM("concat", zoo=zoo.root, data="mini", batch_size=4)
    assert len(lm.fused.pool) == 4
    found = evaluated(lm, suite_of(suite).leaves)
    info = found["config"]["lorafuse"]
    assert [e["name"] for e in info["experts"]] == [e.name for e in result.experts] == ["sst2", "mnli"]
    assert info["base"]["dtype"] == result.base.dtype
    for key, task in result.tasks.items():
        assert found["results"][f"lorafuse_{key}"]["acc,none"] == task.metrics["acc"].value
    # What was fused, not only what is said to be.
    alone = LorafuseLM("concat", zoo=zoo.root, experts="sst2/mnli", batch_size=4)
    ids = torch.arange(20)[None]
    torch.testing.assert_close(lm.model(ids).logits, alone.model(ids).logits)


def test_tasks_that_no_expert_was_trained_for_fuse_all_by_both_commands_and_it_is_said(
    zoo: Zoo, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    word = "no expert of zoo 'tiny' was trained for piqa_like, so all are fused: sst2, mnli, squad, piqa"
    assert untrained(zoo, ["piqa_like"]) == word
    assert untrained(zoo, ["piqa_like", "sst2"]) is None and untrained(zoo, ["piqa_like"], ["sst2"]) is None
    said: list[str] = []
    made = plans.cells_of(
        runner.Plan([registry.parse("base"), registry.parse("concat")], ["boolq"], tmp_path, zoo.root),
        zoo,
        said.append,
    )
    assert [cell.pool.names for cell in made] == [("sst2", "mnli", "squad", "piqa")] * 2
    assert said == ["boolq: " + word.replace("piqa_like", "boolq")]
    lm = LorafuseLM("concat", zoo=zoo.root, data="mini")
    lm.meet({"lorafuse_boolq": Mock(), "lorafuse_boolq_options": Mock()}, {})
    assert lm.fused.pool.names == ("sst2", "mnli", "squad", "piqa")
    assert word.replace("piqa_like", "boolq") in caplog.text
    with pytest.raises(LorafuseError, match="no expert for task 'boolq'"):
        LorafuseLM("oracle", zoo=zoo.root, data="mini").meet({"lorafuse_boolq": Mock()}, {})


def test_experts_that_were_named_stay(zoo: Zoo) -> None:
    lm = LorafuseLM("concat", zoo=zoo.root, experts="squad/piqa", data="mini")
    evaluated(lm, ("lorafuse_sst2",), limit=1)
    assert lm.fused.pool.names == ("squad", "piqa")


def test_each_evaluation_chooses_anew(zoo: Zoo) -> None:
    lm = LorafuseLM("concat", zoo=zoo.root, data="mini")
    for task, names in (("sst2", ("sst2",)), ("mnli", ("mnli",))):
        evaluated(lm, (f"lorafuse_{task}_options",), limit=1)
        assert lm.fused.pool.names == names


def test_the_request_cache_is_refused_whoever_the_tasks_are(zoo: Zoo) -> None:
    """lm-eval's own tasks take their rows from the source asked for, too."""
    lm = LorafuseLM("base", zoo=zoo.root, data="mini")
    with pytest.raises(LorafuseError, match="--cache_requests keys prompts by the task's name alone"):
        evaluate(lm, {"tasks": {}, "groups": {}}, cache_requests=True)
