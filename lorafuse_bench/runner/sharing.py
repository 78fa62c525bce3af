"""Cells are handed to workers one at a time, whatever engine runs them; what a lost worker was at, another does."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Protocol

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.progress import Watcher
from lorafuse_bench.runner.plan import Cell
from lorafuse_bench.runner.worker import Answer, Outcome

POLL_SECONDS = 5.0
TRIES = 3
"""A cell that so many workers were lost at is given up."""


class Hand(Protocol):
    """A worker of an engine, as it is reached from here."""

    def submit(self, name: str) -> Future[Answer]:
        """Have it attend to the cell of that name."""

    def stop(self) -> None:
        """Let it go at once; the cell that it is at goes on from its last block."""


class Engine(Protocol):
    """Starts workers, each with a base of its own."""

    @property
    def lost(self) -> tuple[type[BaseException], ...]:
        """What a future raises whose worker is no more."""

    def start(self) -> Hand:
        """One worker more."""


class Sharing:
    """The cells that wait, those that workers are at, and those that other runs on the folder are at."""

    def __init__(self, cells: Sequence[Cell], engine: Engine, workers: int, watcher: Watcher) -> None:
        self.engine, self.watcher = engine, watcher
        self.waiting = deque(cells)
        self.elsewhere: list[Cell] = []
        self.running: dict[Future[Answer], tuple[Hand, Cell, float]] = {}
        self.lost = Counter[Path]()
        self.told = 0
        self.hands = [engine.start() for _ in range(min(workers, len(cells)))]
        self.idle = list(self.hands)
        self.finished = time.monotonic()

    def run(self) -> None:
        """Return when every cell is done, here or by other runs. LorafuseError for bad input, and for lost cells."""
        self.watcher.expect(len(self.waiting))
        try:
            while self.waiting or self.running or self.elsewhere:
                self._give()
                patience = POLL_SECONDS if self.elsewhere else None
                for future in wait(self.running, patience, FIRST_COMPLETED).done:
                    self._take(future)
                if not self.waiting and self.elsewhere:
                    self._wait()
        finally:
            for hand in self.hands:
                hand.stop()

    def _give(self) -> None:
        while self.waiting and self.idle:
            hand, cell = self.idle.pop(0), self.waiting.popleft()
            self.running[hand.submit(str(cell))] = hand, cell, time.monotonic()

    def _take(self, future: Future[Answer]) -> None:
        hand, cell, since = self.running.pop(future)
        try:
            answer = future.result()
        except self.engine.lost as error:
            self._replace(hand, cell, error)
            return
        self.idle.append(hand)
        if isinstance(answer, LorafuseError):
            raise answer
        if answer is Outcome.ELSEWHERE:
            self.elsewhere.append(cell)
        elif answer is Outcome.KEPT:
            self.watcher.skip(f"{cell}: {answer}")
        else:
            self._finish(cell, since)

    def _finish(self, cell: Cell, since: float) -> None:
        if not cell.path.exists():
            raise LorafuseError(
                f"{cell}: its worker wrote {cell.path}, which is not here. Name an --out on a file system that all"
                " machines share."
            )
        now = time.monotonic()
        self.watcher.finish(str(cell), now - since, now - self.finished)
        self.finished = now

    def _replace(self, hand: Hand, cell: Cell, error: BaseException) -> None:
        """Another worker for one that is no more; its cell goes on from its last block."""
        self.lost[cell.path] += 1
        if self.lost[cell.path] == TRIES:
            raise LorafuseError(
                f"{cell}: {TRIES} workers were lost at it, such as for want of memory ({_line(error)}). Use fewer"
                " --workers or a smaller --batch-size; the same command goes on."
            )
        self.watcher.say(f"{cell}: its worker was lost, another continues")
        hand.stop()
        self.hands.remove(hand)
        self.hands.append(self.engine.start())
        self.idle.append(self.hands[-1])
        self.waiting.appendleft(cell)

    def _wait(self) -> None:
        """Ask again for the cells of other runs, after a while; that they are waited for is said once."""
        if len(self.elsewhere) != self.told:
            self.told = len(self.elsewhere)
            self.watcher.say(f"waiting for {self.told} cells that another run is evaluating")
        if not self.running:
            time.sleep(POLL_SECONDS)
        self.waiting.extend(self.elsewhere)
        self.elsewhere.clear()


def _line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0].rstrip(".")
