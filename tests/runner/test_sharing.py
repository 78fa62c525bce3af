"""Cells handed to workers: lost workers, cells of other runs, bad input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.progress import Watcher
from lorafuse_bench.runner import sharing
from lorafuse_bench.runner.plan import Cell
from lorafuse_bench.runner.sharing import Sharing
from lorafuse_bench.runner.worker import Answer, Outcome

Attend = Callable[[int, str], Answer]
"""What worker number i does with the cell of a name."""


class LostError(Exception):
    """Stands for what an engine raises where a worker was killed."""


@dataclass(frozen=True)
class Toy:
    """A cell."""

    path: Path

    def __str__(self) -> str:
        return self.path.name


class Hands:
    """An engine whose workers answer at once."""

    lost = (LostError,)

    def __init__(self, attend: Attend) -> None:
        self.attend, self.started, self.stopped = attend, 0, 0

    def start(self) -> Hand:
        self.started += 1
        return Hand(self, self.started)


class Hand:
    def __init__(self, engine: Hands, number: int) -> None:
        self.engine, self.number = engine, number

    def submit(self, name: str) -> Future[Answer]:
        future: Future[Answer] = Future()
        try:
            future.set_result(self.engine.attend(self.number, name))
        except LostError as error:
            future.set_exception(error)
        return future

    def stop(self) -> None:
        self.engine.stopped += 1


@pytest.fixture
def cells(tmp_path: Path) -> list[Toy]:
    return [Toy(tmp_path / name) for name in "abcd"]


def shared(cells: Sequence[Toy], attend: Attend, workers: int = 2) -> tuple[Hands, list[str]]:
    said: list[str] = []
    engine = Hands(attend)
    Sharing(cast(list[Cell], cells), engine, workers, Watcher(said.append)).run()
    assert engine.stopped == engine.started, "a worker was left running"
    return engine, said


def done(cells: Sequence[Toy], name: str) -> Outcome:
    next(cell for cell in cells if str(cell) == name).path.touch()
    return Outcome.DONE


def test_each_cell_is_done_once(cells: list[Toy]) -> None:
    seen: list[str] = []
    engine, said = shared(cells, lambda worker, name: seen.append(name) or done(cells, name))
    assert sorted(seen) == ["a", "b", "c", "d"] and engine.started == 2
    assert [line[:6] for line in said] == ["[1/4] ", "[2/4] ", "[3/4] ", "[4/4] "]
    assert {line[6] for line in said} == {"a", "b", "c", "d"}


def test_no_more_workers_are_started_than_there_are_cells(cells: list[Toy]) -> None:
    assert shared(cells[:1], lambda worker, name: done(cells, name), workers=8)[0].started == 1


def test_a_lost_worker_s_cell_is_done_by_another(cells: list[Toy]) -> None:
    seen: list[tuple[int, str]] = []

    def attend(worker: int, name: str) -> Answer:
        seen.append((worker, name))
        if worker == 1:
            raise LostError
        return done(cells, name)

    engine, said = shared(cells, attend)
    assert all(cell.path.exists() for cell in cells) and engine.started == 3
    assert seen[0] == (1, "a") and len(seen) == 5
    assert "a: its worker was lost, another continues" in said


def test_a_cell_that_kills_its_workers_is_given_up(cells: list[Toy]) -> None:
    def attend(worker: int, name: str) -> Answer:
        raise LostError("killed by signal 9\n and more")

    with pytest.raises(
        LorafuseError, match=r"a: 3 workers were lost at it, .*\(killed by signal 9\)\. Use"
    ) as error:
        shared(cells, attend, workers=1)
    assert "\n" not in str(error.value)


def test_bad_input_ends_the_run_and_lets_the_workers_go(cells: list[Toy]) -> None:
    engine = Hands(lambda worker, name: LorafuseError("no space is left"))
    with pytest.raises(LorafuseError, match="no space is left"):
        Sharing(cast(list[Cell], cells), engine, 3, Watcher()).run()
    assert engine.stopped == engine.started == 3


def test_cells_of_another_run_are_waited_for_and_that_is_said_once(
    cells: list[Toy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "POLL_SECONDS", 0.001)
    asked: list[str] = []

    def attend(worker: int, name: str) -> Answer:
        asked.append(name)
        if name in "cd" and asked.count(name) < 5:
            return Outcome.ELSEWHERE
        return done(cells, name) if name != "d" else Outcome.KEPT

    said = shared(cells, attend)[1]
    assert [line for line in said if "waiting" in line] == [
        "waiting for 2 cells that another run is evaluating"
    ]
    assert "d: done by another run" in said
    assert asked.count("a") == asked.count("b") == 1


def test_a_result_on_a_disk_of_the_worker_s_own_is_said(cells: list[Toy]) -> None:
    with pytest.raises(
        LorafuseError, match="which is not here. Name an --out on a file system that all machines"
    ):
        shared(cells, lambda worker, name: Outcome.DONE)
