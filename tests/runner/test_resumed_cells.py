"""A cell that is stopped anywhere goes on from its last block, to the same scores."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from handmade import write_data, write_split
from tiny import add_router
from toy_grid import plan

from lorafuse_bench import files, runner
from lorafuse_bench.leaderboards.results.layout import items_path
from lorafuse_bench.leaderboards.results.samples import samples_path
from lorafuse_bench.model_wrappers import blocks
from lorafuse_bench.model_wrappers.blocks import Blocks
from lorafuse_bench.model_wrappers.generation import Writer
from lorafuse_bench.progress import Part, Watcher
from lorafuse_bench.runner.engines.local import Here
from lorafuse_bench.runner.evaluation import Evaluation
from lorafuse_bench.runner.sharing import Sharing
from lorafuse_bench.runner.worker import Worker
from lorafuse_bench.zoo.manifest import Zoo

SUITE = "sst2/squad/piqa"


class StoppedError(Exception):
    """Stands for whatever ends a run."""


@pytest.fixture(scope="module")
def routed(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return routed_copy(zoo, tmp_path_factory.mktemp("routed") / "zoo")


def routed_copy(zoo: Zoo, root: Path, **changes: object) -> Zoo:
    """The zoo's files under another root, with a router."""
    root.mkdir()
    for entry in zoo.root.iterdir():
        if entry.name != "manifest.json":
            (root / entry.name).symlink_to(entry)
    return add_router(Zoo(root, zoo.manifest.model_copy(update=changes)))


class Counted:
    """The answers that were computed, and those that stand in a block, which are never computed again."""

    def __init__(self) -> None:
        self.computed: list[tuple[str, int]] = []
        self.on_disk: set[tuple[str, int]] = set()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """Every batch is a block."""
    found, add, write = Counted(), Blocks.add, Blocks._write

    def adding(self: Blocks, name: str, answers: dict[int, Any]) -> None:
        each = [(name, position) for position in answers]
        assert not found.on_disk & set(each), "a finished block was computed again"
        found.computed += each
        add(self, name, answers)

    def writing(self: Blocks) -> None:
        each = {(name, position) for name, answers in self._new.items() for position in answers}
        write(self)
        found.on_disk |= each

    monkeypatch.setattr(blocks, "SECONDS", 0.0)
    monkeypatch.setattr(Blocks, "add", adding)
    monkeypatch.setattr(Blocks, "_write", writing)
    return found


def asked(zoo: Zoo, out: Path, methods: str, **changes: Any) -> runner.Plan:
    return plan(zoo, out, methods, **{"suites": [SUITE], "limit": 3, "batch_size": 2} | changes)


def scores(path: Path) -> tuple[bytes, bytes]:
    return items_path(path).read_bytes(), samples_path(path).read_bytes()


def stop_at(batch: int) -> Callable[..., None]:
    """A step of progress that stops the run after so many batches; the modules that are fused before are none."""
    left = iter(range(batch - 1))

    def update(self: Part, n: int = 1) -> None:
        if n and not self.what.startswith("fusing") and next(left, None) is None:
            raise StoppedError

    return update


@pytest.mark.parametrize(
    ("methods", "changes"),
    [
        ("concat", {}),
        ("moa", {}),
        ("concat", {"system_instruction": "Answer in a word or two, as well as you can."}),
        ("ensemble", {}),
        ("oracle", {"generation": {"do_sample": True, "temperature": 2.0, "max_gen_toks": 4}}),
    ],
    ids=["static", "routed", "shared beginning", "ensemble", "sampled"],
)
def test_a_cell_stopped_at_any_batch_has_the_scores_of_one_that_was_not(
    routed: Zoo,
    tmp_path: Path,
    counted: Counted,
    monkeypatch: pytest.MonkeyPatch,
    methods: str,
    changes: dict[str, Any],
) -> None:
    said: list[str] = []
    whole = runner.Grid.of(asked(routed, tmp_path / "whole", methods, **changes), print)
    (cell,) = whole.cells
    evaluation = Evaluation(whole.plan, whole.zoo, whole.source, whole.cells)
    expected = scores(evaluation.run(cell, whole.drafts[cell.path], Watcher()))
    everything = sorted(counted.computed)
    counted.computed.clear(), counted.on_disk.clear()

    grid = runner.Grid.of(asked(routed, tmp_path / "stopped", methods, **changes), print)
    (cell,) = grid.cells
    evaluation.plan = grid.plan
    draft, stops = grid.drafts[cell.path], 0
    while not cell.path.exists():
        with monkeypatch.context() as context:
            context.setattr("lorafuse_bench.progress.Part.update", stop_at(1))
            try:
                evaluation.run(cell, draft, Watcher(said.append))
            except StoppedError:
                stops += 1
        assert stops <= len(everything), "nothing is kept from one stop to the next"
    assert stops >= 4, "stopped too rarely to tell anything"
    assert sorted(counted.computed) == everything
    assert scores(cell.path) == expected
    assert sum("of an earlier run are kept" in line for line in said) >= stops
    assert sorted(path.suffix for path in cell.path.parent.iterdir()) == [".gz", ".gz", ".json"]


def test_an_interrupt_within_a_batch_leaves_chance_where_the_last_answer_left_it(
    routed: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the batch drew that was interrupted is drawn again."""
    sampled = {"generation": {"do_sample": True, "temperature": 2.0, "max_gen_toks": 4}, "suites": ["squad"]}
    sampled |= {"batch_size": 1}
    (whole,) = runner.run(asked(routed, tmp_path / "whole", "oracle", **sampled))
    stopped = asked(routed, tmp_path / "stopped", "oracle", **sampled)
    original, left = Writer._write, iter(range(1))

    def interrupted(*given: Any) -> list[list[int]]:
        written = original(*given)
        if next(left, None) is None:
            raise StoppedError
        return written

    with monkeypatch.context() as context:
        context.setattr(Writer, "_write", interrupted)
        with pytest.raises(StoppedError):
            runner.run(stopped)
    said: list[str] = []
    (path,) = runner.run(stopped, Watcher(said.append))
    assert any("1 texts of an earlier run are kept" in line for line in said)
    assert scores(path) == scores(whole)


def test_what_fusing_took_is_not_counted_again_as_evaluation(tmp_path: Path) -> None:
    with suppress(StoppedError), Blocks(tmp_path) as first:
        first._since -= 100.0  # spent on fusing
        first.begin()
        first.call("texts", ["a"]).add({0: "b"})
        raise StoppedError
    again = Blocks(tmp_path)
    assert again.call("texts", ["a"])[0] == "b"
    assert again.seconds < 10


def killed(work: Callable[[], object], at: int, where: str) -> bool:
    """Whether a process of its own that does `work` was killed, as `kill -9` does, at its so-manieth batch."""
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    left, code = iter(range(at)), 1
    place, name = {"answered": (Blocks, "add"), "written": (files.os, "replace")}[where]
    original = getattr(place, name)

    def fatal(*given: Any) -> object:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*given)

    try:
        torch.set_num_threads(1)  # a process that was forked has no other threads
        setattr(place, name, fatal)
        work()
        code = 0
    finally:
        os._exit(code)


def on_disk(path: Path) -> dict[str, bytes]:
    return {block.name: block.read_bytes() for block in path.parent.rglob("*.block")}


def run_with(evaluation: Evaluation, grid: runner.Grid) -> None:
    """The grid's cells on a base that is loaded."""
    worker = Worker(grid, Watcher())
    worker.__dict__["_evaluation"] = evaluation
    Sharing(grid.cells, Here(worker), 1, Watcher()).run()


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("wanted", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_cost_a_batch_each(
    routed: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: int
) -> None:
    monkeypatch.setattr(blocks, "SECONDS", 0.0)
    whole = runner.Grid.of(asked(routed, tmp_path / "whole", "moa"), print)
    evaluation = Evaluation(whole.plan, whole.zoo, whole.source, whole.cells)
    run_with(evaluation, whole)
    chance, kills, places = random.Random(0), 0, 0
    while kills < wanted:
        places += 1
        grid = runner.Grid.of(asked(routed, tmp_path / f"killed {places}", "moa"), print)
        (cell,) = grid.cells
        evaluation.plan = grid.plan
        while not cell.path.exists():
            before = on_disk(cell.path)
            work = partial(run_with, evaluation, grid)
            kills += killed(work, chance.randint(1, 3), chance.choice(["answered", "written"]))
            after = on_disk(cell.path)
            assert cell.path.exists() or before.items() <= after.items()
        work()  # removes what was left, if the kill came after the cell
        assert scores(cell.path) == scores(whole.cells[0].path)


def other_rows(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"sentence": f"a {word} film .", "label": i % 2, "idx": i} for i, word in enumerate("abc")]
    for split in ("train", "validation"):
        write_split(Path(zoo.manifest.data) / "nyu-mll__glue/sst2", split, rows)


def other_router(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    add_router(Zoo(zoo.root, zoo.manifest.model_copy(update={"artefacts": ()})), seed=1)


def other_packages(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorafuse_bench.identity.version", lambda package: "another")


def other_code(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a checkout that had changes before and has others now."""
    monkeypatch.setattr("lorafuse_bench.runner.provenance._code_sha256", lambda: "another")


@pytest.mark.parametrize("change", [other_rows, other_router, other_packages, other_code])
def test_answers_of_other_inputs_are_not_taken(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[..., None]
) -> None:
    """A cell that was stopped and now has other inputs under the same names begins anew."""
    monkeypatch.setattr(blocks, "SECONDS", 0.0)
    data = write_data(tmp_path / "data")
    mine = routed_copy(zoo, tmp_path / "zoo", data=str(data))
    only = {"suites": ["sst2"], "batch_size": 1}
    with monkeypatch.context() as context:
        context.setattr("lorafuse_bench.progress.Part.update", stop_at(2))
        with pytest.raises(StoppedError):
            runner.run(asked(mine, tmp_path / "stopped", "moa", **only))
    change(mine, monkeypatch)
    said: list[str] = []
    (path,) = runner.run(asked(mine, tmp_path / "stopped", "moa", **only), Watcher(said.append))
    assert not [line for line in said if "of an earlier run" in line]
    (fresh,) = runner.run(asked(mine, tmp_path / "fresh", "moa", **only))
    assert scores(path) == scores(fresh)
