"""Several processes of `accelerate launch -m lm_eval --model lorafuse` share the documents, to the scores of one."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from pathlib import Path

import pytest
import torch
from stock import stock
from tiny import tiny_zoo

from lorafuse_bench.leaderboards.results.lm_eval_results import read_lm_eval
from lorafuse_bench.zoo.manifest import Zoo

PROCESSES = 2


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory, handmade_data: Path) -> Zoo:
    made = tiny_zoo(tmp_path_factory.mktemp("zoo"), experts=7)
    saved = Zoo(made.root, made.manifest.model_copy(update={"data": str(handmade_data)}))
    saved.save()
    return saved


def evaluated(zoo: Zoo, out: Path) -> Path:
    return stock(out, ["mtl5"], method="concat", zoo=zoo.root, data=zoo.data_source, limit=3)


def launched(zoo: Zoo, out: Path, rank: int, port: int) -> int:
    """A process of that rank, as accelerate's launcher starts it, but forked and so without seconds of imports."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(PROCESSES)}
        os.environ |= {
            "LOCAL_WORLD_SIZE": str(PROCESSES),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        os.environ["ACCELERATE_USE_CPU"] = "true"
        evaluated(zoo, out)
        code = 0
    except AssertionError:
        code = 0 if rank else 1  # only the first process has results
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_two_processes_make_the_result_of_one(zoo: Zoo, tmp_path: Path) -> None:
    """Three documents for two processes: lm-eval pads the requests of the second."""
    one, items = read_lm_eval(evaluated(zoo, tmp_path / "one"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = [launched(zoo, tmp_path / "two", rank, port) for rank in range(PROCESSES)]
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    (path,) = (tmp_path / "two").rglob("results_*.json")
    two, shared = read_lm_eval(path)
    assert shared == items
    assert two.tasks == one.tasks and two.run_id == one.run_id
