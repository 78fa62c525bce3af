"""Workers in processes: the scores of one, although one is killed; what engines refuse, and Ray's lost head."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import cast

import pytest
from toy_grid import plan

from lorafuse_bench import runner
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.results import cell_files
from lorafuse_bench.progress import Relay, Watcher
from lorafuse_bench.runner import running
from lorafuse_bench.runner.engines import local
from lorafuse_bench.runner.engines import ray as engine_of_ray
from lorafuse_bench.runner.worker import Order, Worker
from lorafuse_bench.zoo.manifest import Zoo

METHODS = "base,ties,concat,svd"


def one_of_processes() -> int:
    children = multiprocessing.active_children()
    return next(child.pid for child in children if child.name.startswith("SpawnProcess") and child.pid)


def killer(said: list[str]) -> Callable[[str], None]:
    """Listens, and kills a worker at the first line."""

    def listen(text: str) -> None:
        if not said:
            os.kill(one_of_processes(), signal.SIGKILL)
        said.append(text)

    return listen


def items(paths: list[Path]) -> list[object]:
    return [cell_files.read_cell(path)[1] for path in paths]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_workers_make_the_scores_of_one_process_although_one_is_killed(zoo: Zoo, tmp_path: Path) -> None:
    one = runner.run(plan(zoo, tmp_path / "one", METHODS))
    said: list[str] = []
    two = runner.run(plan(zoo, tmp_path / "two", METHODS), Watcher(killer(said)), workers=2)
    assert items(one) == items(two)
    assert any("its worker was lost, another continues" in line for line in said)


def test_ray_that_is_not_installed_is_said_with_the_command(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(running.Grid, "of", lambda *given: pytest.fail("said too late"))
    with pytest.raises(
        LorafuseError, match=r"--engine ray needs Ray, .* pip install 'lorafuse-bench\[ray\]'"
    ):
        runner.run(plan(zoo, tmp_path), engine="ray")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"engine": "rya"}, "unknown engine 'rya'. Did you mean 'ray'?"),
        ({"ray_address": "auto"}, "--ray-address is of the engine ray. Add --engine ray"),
    ],
)
def test_engines_that_do_not_fit_are_refused(
    zoo: Zoo, tmp_path: Path, asked: dict[str, str], said: str
) -> None:
    with pytest.raises(LorafuseError) as error:
        runner.run(plan(zoo, tmp_path), **asked)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("asked", "gpus", "found"),
    [
        ("auto", 2, ["cuda:0", "cuda:1"]),
        ("cuda", 2, ["cuda:0", "cuda:1"]),
        ("cuda:1", 2, ["cuda:1"]),
        ("auto", 0, ["auto"]),
        ("cpu", 2, ["cpu"]),
    ],
)
def test_workers_take_the_gpus_in_turn(
    monkeypatch: pytest.MonkeyPatch, asked: str, gpus: int, found: list[str]
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert local.devices(asked) == found


def test_a_lost_worker_s_gpu_is_taken_by_the_one_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    class Hand:
        def __init__(self, order: Order, relay: Relay, leave: Callable[[], None]) -> None:
            made.append(order.plan.device)
            self.stop = leave

    monkeypatch.setattr(local, "Process", Hand)
    order = Order(runner.Plan(None, [], Path()), {})
    engine = local.Processes(order, cast(Relay, None), Counter({"cuda:0": 0, "cuda:1": 0}))
    hands = [engine.start() for _ in range(4)]
    hands[3].stop()
    hands[1].stop()
    engine.start(), engine.start(), engine.start()
    assert made == ["cuda:0", "cuda:1"] * 2 + ["cuda:1", "cuda:1", "cuda:0"]


def test_a_last_cell_is_a_process_s_too_where_several_are_asked_for(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base in this process computes with other threads, and would not take up what a worker answered."""
    told: list[int] = []

    def engine(grid: runner.Grid, workers: int, watcher: Watcher) -> AbstractContextManager[local.Here]:
        told.append(workers)
        return nullcontext(local.Here(Worker(grid, watcher)))

    monkeypatch.setattr(local, "engine", engine)
    runner.run(plan(zoo, tmp_path), workers=2)
    assert told == [2]


class Endless:
    """An order whose worker is never done."""

    def worker(self, watcher: Watcher) -> None:
        time.sleep(600)


@pytest.mark.slow
def test_a_worker_is_stopped_within_its_cell() -> None:
    left: list[bool] = []
    worker = local.Process(cast(Order, Endless()), cast(Relay, None), lambda: left.append(True))
    worker._process.result()
    cell = worker.submit("a cell")
    while not cell.running():
        time.sleep(0.01)
    since = time.monotonic()
    worker.stop()
    assert time.monotonic() - since < 20 and left
    assert isinstance(cell.exception(), KeyboardInterrupt)


def test_an_interrupt_between_cells_ends_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one that comes after a worker was given its cell and before it begins."""
    monkeypatch.setattr(local, "_told", False)
    monkeypatch.setattr(local, "_remote", local.Remote(cast(Order, None)), raising=False)
    local._interrupted(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        local._attend("a cell")
    assert not local._busy


def test_a_worker_that_finds_other_cells_says_so(zoo: Zoo, tmp_path: Path) -> None:
    """Such as on a machine whose copy of the zoo has other fits."""
    worker = Worker(runner.Grid.of(plan(zoo, tmp_path), print), Watcher())
    with pytest.raises(
        LorafuseError, match="sst2 moa: a worker finds no such cell: its zoo or packages are others"
    ):
        worker.attend("sst2 moa")


def test_no_engine_imports_ray_before_it_is_asked_for() -> None:
    assert "ray" not in vars(engine_of_ray)


def test_a_head_that_stops_answering_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray would end the process after a minute, with a line of its own."""
    told: list[int] = []
    monkeypatch.setattr(engine_of_ray, "ASKED", 0.02)
    monkeypatch.setattr(signal, "pthread_kill", lambda thread, number: told.append(number))
    with socket.create_server(("127.0.0.1", 0)) as head:
        watch = engine_of_ray.Watch(f"127.0.0.1:{head.getsockname()[1]}")
        time.sleep(0.3)
        assert not watch.lost
    until = time.monotonic() + 20
    while not told and time.monotonic() < until:
        time.sleep(0.02)
    watch.stop()  # else the process ends
    assert watch.lost
    assert told == [signal.SIGINT]
