"""How a long command is followed: lines that stay, and steps of a known number with the time that is left."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from queue import Queue
from threading import Thread
from typing import Any, TypeVar

from lorafuse_bench.errors import shown

_LOGGER = logging.getLogger(__name__)


SECONDS_BETWEEN = 30.0
"""At least so often a long step says how far it is."""
_GONE = (OSError, EOFError)
"""What a queue between processes raises whose own process is no more."""
_Item = TypeVar("_Item")
_CURRENT: ContextVar[Watcher] = ContextVar("watcher")


def current() -> Watcher:
    """Who watches the command that runs; nobody reads it where none does."""
    return _CURRENT.get(Watcher())


def watching(report: Callable[[str], None]) -> Watcher:
    """A watcher, where that is given; of a function that takes lines, one that says them."""
    return report if isinstance(report, Watcher) else Watcher(report)


class Part:
    """Counts progress towards `total`, as tqdm does, and estimates how long the rest takes."""

    def __init__(self, total: int, what: str, show: Callable[[str], None]) -> None:
        self.total, self.what, self.show = total, what, show
        self.done = 0
        self.start = time.monotonic()

    def update(self, n: int = 1) -> None:
        """So many more are done."""
        self.done += n
        if self.done:  # before the first nobody knows how long one takes
            left = (time.monotonic() - self.start) / self.done * (self.total - self.done)
            self.show(f"{self.what} {self.done:,}/{self.total:,}, about {duration(left)} left")


def counted(items: Sequence[_Item], what: str) -> Iterator[_Item]:
    """The items one by one, while the current watcher is told how many are done."""
    with current().bar(len(items), what) as part:
        for item in items:
            yield item
            part.update()


class Watcher:
    """Tells `say` of each step as it begins and ends; a subclass may draw.

        watcher.expect(3)
        with watcher.step("mtl5 svd"), watcher.bar(40, "Generating") as part:
            part.update(10)

    says `[1/3] mtl5 svd`, then `[1/3] mtl5 svd: 12 s, about 24 s left`. Called like a function, it says a line.
    """

    live = False
    """Whether a part is drawn in place, so that it may be told at any time."""

    def __init__(self, say: Callable[[str], None] = _LOGGER.info) -> None:
        self.say = say
        self.total = 0
        self.done = 0
        self._seconds = 0.0
        self._said = time.monotonic()

    def __call__(self, text: str) -> None:
        self.say(text)

    def expect(self, steps: int) -> None:
        """So many steps are to come, from now on."""
        self.total = self.done + steps

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """One step; it counts as done when the context is left without an exception."""
        self.start(name)
        start = time.perf_counter()
        yield
        self.finish(name, time.perf_counter() - start)

    def start(self, name: str) -> None:
        """The next step begins."""
        self._said = time.monotonic()
        self.begin(self._title(name))

    def finish(self, name: str, seconds: float, since: float | None = None) -> None:
        """One step more is done, in so many seconds; `since` the one before, where several steps go on at a time."""
        title = self._title(name)
        self._seconds += seconds if since is None else since
        self.done += 1
        self.say(f"{title}: {duration(seconds)}{self._left()}")

    def skip(self, reason: str) -> None:
        """One step fewer is to come."""
        self.total -= 1
        self.say(reason)

    def begin(self, title: str) -> None:
        """A step begins."""
        self.say(title)

    @contextmanager
    def bar(self, total: int, desc: str, disable: bool = False) -> Iterator[Part]:
        """A stand-in for a tqdm bar within a step."""
        yield Part(total, desc, self.part if not disable else lambda text: None)

    def part(self, text: str, due: bool = False) -> None:
        """How far the current step is, such as `Generating 10/40`: a line where it is due, or none was for long."""
        if due or time.monotonic() - self._said > SECONDS_BETWEEN:
            self._said = time.monotonic()
            self.say(text)

    def _title(self, name: str) -> str:
        return f"[{self.done + 1}/{self.total}] {name}" if self.total else name

    def _left(self) -> str:
        steps = self.total - self.done
        return f", about {duration(self._seconds / self.done * steps)} left" if steps > 0 else ""


@contextmanager
def followed(watcher: Watcher) -> Iterator[None]:
    """Inside, `watcher` is the current one."""
    token = _CURRENT.set(watcher)
    try:
        yield
    finally:
        _CURRENT.reset(token)


class Relay(Watcher):
    """Sends what it is told to the process that shows it, which reads `queue` with `relayed`.

    Others send there too, so a part says whose it is. Where nobody reads any more nothing is shown, and work goes on.
    """

    def __init__(self, queue: Queue[tuple[str, bool] | None], live: bool) -> None:
        super().__init__(lambda text: self._send(text, True))
        self.queue, self.live = queue, live
        self._step = ""

    def __reduce__(self) -> tuple[Any, ...]:
        return Relay, (self.queue, self.live)

    def begin(self, title: str) -> None:
        """Send it, and before each part from now on."""
        self.say(title)
        self._step = f"{title}: "

    def part(self, text: str, due: bool = False) -> None:
        """Send it."""
        self._send(f"{self._step}{text}", due)

    def _send(self, text: str, due: bool) -> None:
        with suppress(*_GONE):
            self.queue.put((text, due))


@contextmanager
def relayed(watcher: Watcher, queue: Queue[tuple[str, bool] | None]) -> Iterator[Relay]:
    """A watcher for other processes, whose parts `watcher` shows while the context lasts."""

    def show() -> None:
        with suppress(*_GONE):
            for text, due in iter(queue.get, None):
                watcher.part(text, due)

    thread = Thread(target=show)
    thread.start()
    try:
        yield Relay(queue, watcher.live)
    finally:
        with suppress(*_GONE):
            queue.put(None)
        thread.join()


class Display(Watcher):
    """A live bar below the lines where standard error is a terminal; the lines alone elsewhere.

    A context: the bar is drawn inside it. steps: how many are to come; 0 where that is not known yet.
    """

    def __init__(self, steps: int = 0) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        self._console = Console(
            stderr=True, highlight=False, soft_wrap=True, quiet=os.environ.get("RANK", "0") != "0"
        )  # of processes that were launched together the first speaks
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[part]}", markup=False),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            refresh_per_second=4,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, part="")
        super().__init__(lambda text: self._console.print(shown(text), markup=False))
        self.live = not self._bar.disable
        self.expect(steps)

    def __enter__(self) -> Display:
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()  # it would tear this one
        self._bar.start()
        self._token = _CURRENT.set(self)
        return self

    def __exit__(self, *exception: Any) -> None:
        _CURRENT.reset(self._token)
        self._bar.stop()

    def begin(self, title: str) -> None:
        """Name the step beside the bar; a line of its own where there is none."""
        if not self.live:
            self.say(title)
        self._draw("", title)

    def part(self, text: str, due: bool = False) -> None:
        """Show it beside the bar, without the step's name that is there; a line, as elsewhere, without a bar."""
        if self.live:
            what, _, rest = text.partition(": ")
            self._draw(rest if rest and self._bar.tasks[0].description.endswith(what) else text)
        else:
            super().part(text, due)

    def _draw(self, part: str, title: str | None = None) -> None:
        self._bar.update(
            self._task, description=title, total=self.total or None, completed=self.done, part=part
        )


def duration(seconds: float) -> str:
    """`9.3 s`, `42 s`, `3 min`, `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
