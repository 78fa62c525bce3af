"""Following a long command: the lines, and the bar on a terminal."""

from __future__ import annotations

import io
from pathlib import Path
from queue import Queue
from typing import Any, cast

import pytest
import torch
from rich.console import Console
from tiny import tiny_zoo

from lorafuse_bench import progress
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion import registry
from lorafuse_bench.loading import load_model
from lorafuse_bench.progress import Display, Part, Watcher, counted, current, duration, followed, relayed
from lorafuse_bench.training import loop
from lorafuse_bench.training.loop import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(0, 1000, 12))
    monkeypatch.setattr(progress.time, "perf_counter", lambda: float(next(ticks)))


def steps(watcher: Watcher) -> None:
    watcher.expect(4)
    with watcher.step("a"), watcher.bar(10, "Generating") as part:
        part.update(5)
    watcher.skip("b: not needed")
    with watcher.step("c"), watcher.bar(10, "Scoring", disable=True) as silent:
        silent.update(10)
    with watcher.step("d"), watcher.bar(2000, "Scoring") as part:
        part.update(1000)


def test_each_step_says_its_time_and_what_is_left(clock: None) -> None:
    said: list[str] = []
    steps(Watcher(said.append))
    assert said == [
        "[1/4] a",
        "[1/4] a: 12 s, about 36 s left",
        "b: not needed",
        "[2/3] c",
        "[2/3] c: 12 s, about 12 s left",
        "[3/3] d",
        "[3/3] d: 12 s",
    ]


def test_a_step_that_fails_is_not_done() -> None:
    said: list[str] = []
    watcher = Watcher(said.append)
    watcher.expect(1)
    with pytest.raises(KeyboardInterrupt), watcher.step("a"):
        raise KeyboardInterrupt
    assert said == ["[1/1] a"]
    assert watcher.done == 0


def test_a_name_out_of_a_file_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(steps=1) as display, display.step("toy svd:rank=\x1b[2J[red]"):
        pass
    assert "[1/1] toy svd:rank=\\x1b[2J[red]\n" in capsys.readouterr().err


@pytest.mark.parametrize("terminal", [False, True])
def test_lines_everywhere_and_a_bar_on_a_terminal(
    clock: None, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    written = io.StringIO()

    def console(**settings: object) -> Console:
        assert settings.pop("stderr")
        return Console(file=written, force_terminal=terminal, width=100, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr("rich.console.Console", console)
    with Display() as display:
        steps(display)
    text = written.getvalue()
    assert "[1/4] a: 12 s, about 36 s left\n" in text.replace("\x1b[2K", "")
    assert ("Scoring 1,000/2,000" in text) == terminal
    assert ("[1/4] a\n" in text) == (not terminal)
    assert ("\x1b" in text) == terminal
    assert "Scoring 10/10" not in text


def test_a_training_is_drawn_in_place_and_said_ten_times(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    drawn: list[str] = []

    class Screen(Watcher):
        live = True

        def part(self, text: str, due: bool = False) -> None:
            drawn.append(text)

    monkeypatch.setattr(loop, "peak_bytes", lambda device: 3 * 2**29)
    said: list[str] = []
    for watcher in (Screen(), Watcher(said.append)):
        training = Progress("expert sst2", watcher)
        for step in range(1, 101):
            now[0] += 0.5
            training.step(step, 100, torch.tensor(1.0), 10, 0.1)
    assert (
        len(said) == 10 and said[0] == "expert sst2: step 10/100, loss 1.000, 20 tokens/s, 1.5 GiB, 45 s left"
    )
    assert 30 < len(drawn) < 60


def test_the_name_of_a_step_is_not_drawn_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()

    def console(**settings: object) -> Console:
        settings.pop("stderr")
        return Console(file=written, force_terminal=True, width=120, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr("rich.console.Console", console)
    with Display(steps=1) as display, display.step("expert sst2"):
        display.part("expert sst2: step 1/2")
        display.part("expert mnli: step 2/2")
    text = written.getvalue()
    assert "expert sst2 expert" not in text and "expert mnli: step 2/2" in text


def test_a_long_step_says_how_far_it_is_twice_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    said: list[str] = []
    watcher = Watcher(said.append)
    with watcher.step("a"), watcher.bar(10, "Generating") as part:
        for _ in range(5):
            now[0] += 20
            part.update()
    assert said[1:-1] == ["Generating 2/10, about 3 min left", "Generating 4/10, about 2 min left"]
    watcher.part("at once", due=True)
    assert said[-1] == "at once"


def test_what_another_process_is_told_is_shown_here() -> None:
    said: list[str] = []
    with relayed(Watcher(said.append), Queue()) as relay:
        pickled = relay.__reduce__()
        again = pickled[0](*pickled[1])
        again.part("part")
        again("line")
        again.start("a")
        again.part("Scoring 1/2", due=True)
    assert said == ["line", "a", "a: Scoring 1/2"]


class Gone:
    """A queue whose process was killed."""

    def get(self) -> None:
        raise EOFError

    def put(self, item: object) -> None:
        raise ConnectionRefusedError


def test_work_goes_on_where_nobody_is_left_to_show_it() -> None:
    with relayed(Watcher(), cast("Queue[Any]", Gone())) as relay:
        relay.part("part")
        relay("line")


def test_what_a_worker_calls_finds_who_watches_it() -> None:
    watcher = Watcher()
    with followed(watcher):
        assert current() is watcher
    assert current() is not watcher


def test_a_command_s_display_is_found_by_what_it_calls() -> None:
    with Display() as display:
        assert current() is display
        assert list(counted("ab", "letters")) == ["a", "b"]
    assert current() is not display


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.31, "9.3 s"), (42.4, "42 s"), (185, "3 min"), (7500, "2 h 5 min")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_before_the_first_is_done_nobody_is_told_how_long_it_takes() -> None:
    shown: list[str] = []
    part = Part(10, "Scoring", shown.append)
    part.update(0)
    assert shown == []
    part.update(5)
    (line,) = shown
    assert line.startswith("Scoring 5/10, about ")


def test_fusing_tells_how_many_modules_are_done(tmp_path: Path) -> None:
    said: list[str] = []
    watcher = Watcher()
    watcher.part = lambda text, due=False: said.append(text)  # type: ignore[method-assign]
    token = progress._CURRENT.set(watcher)
    try:
        zoo = tiny_zoo(tmp_path)
        fused = FusedModel(load_model(zoo.base_folder()), zoo, ExpertPool.from_zoo(zoo))
        for spec in ("svd", "arrow"):
            fused.use(registry.parse(spec))
    finally:
        progress._CURRENT.reset(token)
    modules = len(fused.pool.modules)
    assert [text.partition(",")[0] for text in said] == [
        f"fusing {spec} {done}/{modules}" for spec in ("svd", "arrow") for done in range(1, modules)
    ]
