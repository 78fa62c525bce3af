"""How a long command is followed: lines that stay, and steps of a known number with the time that is left."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_LOGGER = logging.getLogger(__name__)


class Part:
    """Counts what is done of `total`, as tqdm does."""

    def __init__(self, total: int, what: str, show: Callable[[str], None]) -> None:
        self.total, self.what, self.show = total, what, show
        self.done = 0

    def update(self, n: int = 1) -> None:
        """So many more are done."""
        self.done += n
        self.show(f"{self.what} {self.done:,}/{self.total:,}")


class Watcher:
    """Tells `say` of each step as it begins and ends; a subclass may draw.

        watcher.expect(3)
        with watcher.step("mtl5 svd"), watcher.bar(40, "Generating") as part:
            part.update(10)

    says `[1/3] mtl5 svd`, then `[1/3] mtl5 svd: 12 s, about 24 s left`.
    """

    def __init__(self, say: Callable[[str], None] = _LOGGER.info) -> None:
        self.say = say
        self.total = 0
        self.done = 0
        self._seconds = 0.0

    def expect(self, steps: int) -> None:
        """So many steps are to come, from now on."""
        self.total = self.done + steps

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """One step; it counts as done when the context is left without an exception."""
        title = f"[{self.done + 1}/{self.total}] {name}"
        self.begin(title)
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self._seconds += seconds
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
        """What stands in for a tqdm bar within a step."""
        yield Part(total, desc, self.part if not disable else lambda text: None)

    def part(self, text: str) -> None:
        """How far the current step is, such as `Generating 10/40`."""

    def _left(self) -> str:
        steps = self.total - self.done
        return f", about {duration(self._seconds / self.done * steps)} left" if steps > 0 else ""


class Display(Watcher):
    """A live bar below the lines where standard error is a terminal; the lines alone elsewhere.

    A context: the bar is drawn inside it.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[part]}", markup=False),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None, part="")
        super().__init__(lambda text: self._console.print(text, markup=False))

    def __enter__(self) -> Display:
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()  # it would tear this one
        self._bar.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._bar.stop()

    def begin(self, title: str) -> None:
        """Name the step beside the bar; a line of its own where there is none."""
        if self._bar.disable:
            self.say(title)
        self._bar.update(self._task, description=title, total=self.total, completed=self.done, part="")

    def part(self, text: str) -> None:
        """Show it beside the bar."""
        self._bar.update(self._task, part=text)


def duration(seconds: float) -> str:
    """`9.3 s`, `42 s`, `3 min`, `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
