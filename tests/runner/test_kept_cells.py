"""What `run` does with cells that stand on disk already, alone and beside another run."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_zoo
from toy_cells import rewrite
from toy_grid import SUITE, plan

from lorafuse_bench import runner
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import LoraExpert
from lorafuse_bench.leaderboards.results import cell_files, layout
from lorafuse_bench.leaderboards.results.samples import samples_path
from lorafuse_bench.progress import Watcher
from lorafuse_bench.runner import sharing
from lorafuse_bench.runner.evaluation import Evaluation
from lorafuse_bench.runner.kept import locked, why_run
from lorafuse_bench.tasks import catalogue
from lorafuse_bench.tasks import suites as definitions
from lorafuse_bench.tasks.row_files import row_files
from lorafuse_bench.tasks.suites import suite as suite_of
from lorafuse_bench.zoo.manifest import Zoo


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Labels of the methods evaluated."""
    labels: list[str] = []
    original = Evaluation.run
    monkeypatch.setattr(
        Evaluation, "run", lambda *args: labels.append(args[1].method.label()) or original(*args)
    )
    return labels


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def another_score(path: Path) -> None:
    content = gzip.decompress(path.read_bytes()).replace(b"[0.0]", b"[0.5]").replace(b"[1.0]", b"[0.5]")
    path.write_bytes(gzip.compress(content))


@pytest.mark.parametrize(
    ("file", "harm"),
    [
        (layout.items_path, truncate),
        (layout.items_path, lambda path: path.write_bytes(b"")),
        (layout.items_path, lambda path: path.unlink()),
        (layout.items_path, another_score),
        (samples_path, truncate),
        (Path, truncate),
        (Path, lambda path: path.write_bytes(b"")),
    ],
)
def test_a_damaged_cell_is_done_again_and_said_so(
    zoo: Zoo, tmp_path: Path, ran: list[str], file: Callable[[Path], Path], harm: Callable[[Path], object]
) -> None:
    (path,) = runner.run(plan(zoo, tmp_path))
    whole = cell_files.read_cell(path)[1]
    harm(file(path))
    said: list[str] = []
    runner.run(plan(zoo, tmp_path), Watcher(said.append))
    assert ran == ["base", "base"]
    (line,) = (line for line in said if "damaged" in line)
    assert line.startswith(f"{SUITE} base: damaged: ")
    assert str(file(path)) in line
    assert cell_files.read_cell(path)[1] == whole


def test_samples_that_were_removed_are_not_damage(zoo: Zoo, tmp_path: Path, ran: list[str]) -> None:
    (path,) = runner.run(plan(zoo, tmp_path))
    samples_path(path).unlink()
    runner.run(plan(zoo, tmp_path))
    assert ran == ["base"]


def test_two_runs_on_one_folder_share_the_cells(
    zoo: Zoo, tmp_path: Path, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "POLL_SECONDS", 0.05)
    asked = plan(zoo, tmp_path, "base,weight_sum")
    path = layout.cell_path(tmp_path, SUITE, zoo.name, 0, "base")
    said: list[str] = []
    second = threading.Thread(target=runner.run, args=(asked, Watcher(said.append)))
    with locked(path) as mine:  # as another run that evaluates `base` does
        assert mine
        second.start()
        while not any("waiting for 1 cells" in line for line in said):
            assert second.is_alive() or pytest.fail(f"the second run did not wait: {said}")
        assert ran == ["weight_sum"]
        (elsewhere,) = runner.run(plan(zoo, tmp_path / "elsewhere"))
        for beside in (layout.items_path, samples_path, Path):
            beside(elsewhere).rename(beside(path))
    second.join()
    assert ran == ["weight_sum", "base"]  # the latter elsewhere
    assert any("done by another run" in line for line in said)


def test_a_cell_that_a_killed_run_left_is_taken_over(
    zoo: Zoo, tmp_path: Path, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = layout.cell_path(tmp_path, SUITE, zoo.name, 0, "base")
    path.parent.mkdir(parents=True)
    (path.parent / ".base.json.lock").touch()
    (path.parent / ".base.json.x1y2.part").touch()
    runner.run(plan(zoo, tmp_path))
    assert ran == ["base"]
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "base.items.json.gz",
        "base.json",
        "base.samples.jsonl.gz",
    ]


def changed(zoo: Zoo, root: Path, **fields: Any) -> Zoo:
    (root / "zoo").mkdir()
    for entry in zoo.root.iterdir():
        (root / "zoo" / entry.name).symlink_to(entry)
    (root / "zoo" / "manifest.json").unlink()
    made = Zoo(root / "zoo", zoo.manifest.model_copy(update=fields))
    made.save()
    return made


def test_what_no_result_can_hold_is_refused_before_anything_runs(
    zoo: Zoo, tmp_path: Path, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    negative = changed(zoo, tmp_path, seed=-1)
    with pytest.raises(LorafuseError, match=r"seed: Input should be greater than or equal to 0"):
        runner.run(plan(negative, tmp_path / "out"))
    original = LoraExpert.load
    monkeypatch.setattr(
        LoraExpert,
        "load",
        lambda *args: replace(original(*args), alpha=float("nan")),
    )
    with pytest.raises(LorafuseError, match="alpha"):
        runner.run(plan(zoo, tmp_path / "out", "concat"))
    assert not ran


@pytest.mark.parametrize("blocked", ["out", "suite", "cell", "items", "samples", "link"])
def test_an_out_that_cannot_be_written_is_refused_before_anything_runs(
    zoo: Zoo, tmp_path: Path, ran: list[str], blocked: str
) -> None:
    path = layout.cell_path(tmp_path / "out", SUITE, zoo.name, 0, "base")
    beside = {"cell": path, "items": layout.items_path(path), "samples": samples_path(path)}
    if blocked in beside:
        beside[blocked].mkdir(parents=True)
    elif blocked == "link":
        (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    else:
        wall = {"out": tmp_path / "out", "suite": path.parent.parent}[blocked]
        wall.parent.mkdir(parents=True, exist_ok=True)
        wall.touch()
    with pytest.raises(
        LorafuseError, match="cannot write .*(Choose|Remove)|is a folder where a result is due"
    ):
        runner.run(plan(zoo, tmp_path / "out", "weight_sum,base"))
    assert not ran


def test_a_router_that_is_missing_is_said_before_anything_runs(
    zoo: Zoo, tmp_path: Path, ran: list[str]
) -> None:
    with pytest.raises(LorafuseError, match="has no fit of method 'moa'"):
        runner.run(plan(zoo, tmp_path, "base,moa"))
    assert not ran


def test_a_cell_of_before_an_option_was_added_is_kept(zoo: Zoo, tmp_path: Path, ran: list[str]) -> None:
    """It has the option's default, since its label names nothing else."""
    (path,) = runner.run(plan(zoo, tmp_path, "oracle", suites=["sst2"]))
    options = json.loads(path.read_text())["method"]["options"]
    rewrite(path, "method.options", {name: options[name] for name in options if name != "expert"})
    assert runner.run(plan(zoo, tmp_path, "oracle", suites=["sst2"])) == [path] and ran == ["oracle"]


def test_two_experts_of_one_task_are_said_before_anything_runs(
    tmp_path: Path, ran: list[str], handmade_data: Path
) -> None:
    """Which of them the oracle takes is for the user to say, to the oracle or by the experts."""
    made = tiny_zoo(tmp_path / "zoo", experts=3)
    experts = [entry.model_copy(update={"tasks": ("sst2",)}) for entry in made.manifest.experts[:2]]
    changed = made.manifest.model_copy(update={"experts": (*experts, *made.manifest.experts[2:])})
    zoo = Zoo(made.root, changed.model_copy(update={"data": str(handmade_data)}))
    zoo.save()
    asked = plan(zoo, tmp_path / "out", "base,oracle", suites=["squad/sst2"])
    with pytest.raises(LorafuseError, match="task 'sst2' is served by experts sst2, mnli. Choose one"):
        runner.run(asked)
    assert not ran
    runner.run(replace(asked, experts=("mnli", "squad"), limit=1))
    assert sorted(ran) == ["base", "oracle"]


def test_rows_that_are_missing_are_said_before_anything_runs(
    zoo: Zoo, tmp_path: Path, ran: list[str], handmade_data: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "nyu-mll__glue").symlink_to(next(handmade_data.glob("*glue")))
    with pytest.raises(LorafuseError, match="squad"):
        runner.run(plan(zoo, tmp_path / "out", suites=["sst2/qnli", "squad/sst2"], data=str(data)))
    assert not ran


def test_each_expert_s_file_is_read_once(zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = LoraExpert.load
    monkeypatch.setattr(LoraExpert, "load", lambda *args: read.append(args[1]) or original(*args))
    runner.run(plan(zoo, tmp_path, "base", suites=["sst2/mnli", "sst2/paws"]))
    assert sorted(read) == ["mnli", "paws", "sst2"]


def test_the_machine_is_described_once_and_not_in_the_seconds(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.loggers import utils

    def probed(*args: Any) -> None:
        raise AssertionError("lm-eval's own description of the machine takes seconds")

    monkeypatch.setattr(utils, "get_commit_from_path", probed)
    monkeypatch.setattr(utils, "get_git_commit_hash", probed)
    monkeypatch.setattr("lm_eval.evaluator.get_git_commit_hash", probed)
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", probed)
    (path,) = runner.run(plan(zoo, tmp_path))
    assert cell_files.read_result(path).environment.versions["torch"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": "2"}, "suite.sst2.version: '1', now '2'"),
        ({"metric": "acc_options"}, "suite.sst2.metric: 'acc', now 'acc_options'"),
        ({"direction": "down"}, "suite.sst2.direction: 'up', now 'down'"),
    ],
)
def test_a_cell_of_a_task_that_is_another_now_is_refused(
    zoo: Zoo, tmp_path: Path, change: dict[str, str], said: str
) -> None:
    (path,) = runner.run(plan(zoo, tmp_path))
    draft, suite = runner.Grid.of(plan(zoo, tmp_path), print).drafts[path], suite_of(SUITE)
    assert why_run(path, draft, suite) is None
    changed = suite.tasks | {"sst2": suite.tasks["sst2"].model_copy(update=change)}
    with pytest.raises(
        LorafuseError, match=re.escape(f"made with another suite than asked for now ({said})")
    ):
        why_run(path, draft, suite.model_copy(update={"tasks": changed}))


def test_a_kept_cell_says_that_its_suites_file_was_edited_after_it(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(catalogue.VARIABLE, "")
    file = tmp_path / "mine.yaml"
    file.write_text("group: mine\ntask: [lorafuse_sst2]\nmetadata: {lorafuse: {kind: scored}}\n")
    (path,) = runner.run(mine := plan(zoo, tmp_path / "out", suites=[str(file)]))
    said: list[str] = []
    for seconds, note in (
        (-9, ""),
        (9, f"; {file} was edited after that: remove the result to run the cell again"),
    ):
        os.utime(file, (0, path.stat().st_mtime + seconds))
        runner.run(mine, Watcher(said.append))
        assert said[-1] == f"mine base: kept {path}{note}"


def test_a_kept_cell_says_that_its_rows_were_edited_after_it(zoo: Zoo, tmp_path: Path) -> None:
    """Those of splits that it did not read say nothing."""
    data = tmp_path / "data"
    shutil.copytree(zoo.data_source, data)
    folder = data / "nyu-mll__glue" / "sst2"
    (path,) = runner.run(mine := plan(zoo, tmp_path / "out", data=str(data)))
    for split, seconds, edited in (("validation", -9, False), ("train", 9, False), ("validation", 9, True)):
        os.utime(file := folder / f"{split}.parquet", (0, path.stat().st_mtime + seconds))
        runner.run(mine, Watcher((said := []).append))
        assert (f"; {file} was edited after that" in said[-1]) is edited, said


def test_the_files_of_rows_are_those_that_a_task_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(catalogue.VARIABLE, str(tmp_path))
    for name in ("a", "b", "c", "d"):
        (tmp_path / f"{name}.jsonl").touch()
    (folder := tmp_path / "my__words" / "short").mkdir(parents=True)
    (words := folder / "test.parquet").touch()
    of_files = "dataset_path: json\ndataset_kwargs: {{data_files: {}}}".format
    named = {
        "one": (of_files(f"{tmp_path}/a.jsonl"), ["a"]),
        "many": (of_files(f"{{test: [{tmp_path}/a.jsonl, '{tmp_path}/[cd].jsonl']}}"), ["a", "c", "d"]),
        "far": (of_files("{test: https://example.org/x.jsonl}"), []),
        "hub": ("dataset_path: my/words\ndataset_name: short", []),
    }
    for task, (dataset, files) in named.items():
        (tmp_path / f"{task}.yaml").write_text(
            f"task: {task}\n{dataset}\noutput_type: multiple_choice\ntest_split: test\ndoc_to_text: q\n"
        )
        definitions.forget()
        assert sorted(row_files(suite_of(task), "hub")) == [tmp_path / f"{name}.jsonl" for name in files]
    assert row_files(suite_of("hub"), str(tmp_path)) == {words}
