"""Several processes of `accelerate launch -m lm_eval --model lorafuse` share the documents, to the scores of one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from launched import launch
from stock import stock
from tiny import tiny_zoo

from lorafuse_bench.leaderboards.results.lm_eval_results import read_lm_eval
from lorafuse_bench.zoo.manifest import Zoo


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory, handmade_data: Path) -> Zoo:
    made = tiny_zoo(tmp_path_factory.mktemp("zoo"), experts=7)
    saved = Zoo(made.root, made.manifest.model_copy(update={"data": str(handmade_data)}))
    saved.save()
    return saved


def evaluated(zoo: Zoo, out: Path) -> Path:
    return stock(out, ["mtl5"], method="concat", zoo=zoo.root, data=zoo.data_source, limit=3)


def shared(zoo: Zoo, out: Path, rank: int) -> None:
    try:
        evaluated(zoo, out)
    except AssertionError:
        assert rank  # only the first process has results


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_two_processes_make_the_result_of_one(zoo: Zoo, tmp_path: Path) -> None:
    """Three documents for two processes: lm-eval pads the requests of the second."""
    one, items = read_lm_eval(evaluated(zoo, tmp_path / "one"))
    assert launch(lambda rank: shared(zoo, tmp_path / "two", rank)) == [0, 0]
    (path,) = (tmp_path / "two").rglob("results_*.json")
    two, both = read_lm_eval(path)
    assert both == items
    assert two.tasks == one.tasks and two.run_id == one.run_id
