"""Results of every released format stay readable, with the ids they were published with.

`formats/result_v1` and `result_v2` hold two cells each as that version wrote them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import create_model
from toy_cells import cell, write

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.boards.builder import build
from lorafuse_bench.leaderboards.publishing.verify import verify
from lorafuse_bench.leaderboards.results import cell_files, formats, run_ids, schema

FORMATS = Path(__file__).parent / "formats"
V1, V2 = FORMATS / "result_v1", FORMATS / "result_v2"
CELLS = [path for folder in (V1, V2) for path in sorted(folder.rglob("*.json"))]
NOT_COUNTED = {
    "run_id",
    "items_sha256",
    "cost",
    "environment",
    "definition",  # must be alike on a board; the tasks' own metrics count
    "num_fewshot",  # what was told; each task's few_shot says what it had
    "batch_size",  # changes no score
    "data.splits",  # docs_sha256 says which rows, whatever file held them
    "tasks.*.dataset.revision",
    "experts.*.revision",
    "tasks.*.metrics",
    "tasks.*.empty_share",
}


@pytest.mark.parametrize("version", run_ids.IDENTITY)
def test_every_released_format_has_a_fixture(version: str) -> None:
    if version != schema.RESULT_SCHEMA:
        assert (FORMATS / version.removeprefix("lorafuse.").replace("/", "_v")).is_dir()


def test_results_of_version_1_build_as_they_were_published() -> None:
    report = verify(V1)
    assert report.problems == ()
    assert report.results == 2
    (board,) = build([V1]).boards
    assert {row.label for row in board.rows if row.origin == "measured"} == {"base", "lora:rank=8"}
    assert board.oblivion


@pytest.mark.parametrize("path", CELLS, ids=lambda path: f"{path.parts[-4]} {path.stem}")
def test_an_older_result_reads_in_todays_form_and_is_written_as_it_was(path: Path, tmp_path: Path) -> None:
    result, items = cell_files.read_cell(path)
    content = json.loads(path.read_text())
    assert [artefact.name for artefact in result.artefacts] == [each["name"] for each in content["routers"]]
    assert (result.settings, result.told.chat_template) == (None, None)
    written = cell_files.write_cell(tmp_path, result, items)
    again = json.loads(written.read_text())
    assert {name: again[name] for name in ("schema", "run_id", "routers")} == {
        name: content[name] for name in ("schema", "run_id", "routers")
    }
    assert "artefacts" not in again
    assert cell_files.read_cell(written) == (result, items)


def test_the_fixture_of_version_2_has_an_artefact() -> None:
    assert any(cell_files.read_result(path).artefacts for path in V2.rglob("*.json"))


def test_results_of_before_and_after_settings_were_kept_share_a_board(tmp_path: Path) -> None:
    """And what was asked otherwise is named by field, in one line."""
    for label, score in (("base", 0.0), ("oracle", 1.0)):
        path = write(tmp_path, label, {"one": [score] * 4}, settings={})
        content = json.loads(path.read_text())
        old = formats.as_written({**content, "schema": "lorafuse.result/2", "settings": None})
        path.write_text(json.dumps({**old, "run_id": run_ids.run_id(old)}))
    write(tmp_path, "svd", {"one": [1.0, 0.0] * 2}, settings={})
    assert len(build([tmp_path]).boards) == 1
    for change, said in (
        (
            {"chat_template": "default"},
            r"settings\.chat_template: 'default', but .* has None\. Build them apart",
        ),
        ({"system_instruction": "Hi."}, r"settings\.system_instruction: 'Hi\.', but"),
        (
            {"generation": {"temperature": 0.5}},
            r"settings\.generation\.temperature: 0\.5, but .* has nothing",
        ),
        ({"model": {"add_bos_token": True}}, r"settings\.model\.add_bos_token: True, but .* has nothing"),
    ):
        write(tmp_path, "svd", {"one": [1.0, 0.0] * 2}, settings=change)
        with pytest.raises(LorafuseError, match=said) as caught:
            build([tmp_path])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", CELLS, ids=lambda path: f"{path.parts[-4]} {path.stem}")
def test_a_field_added_later_leaves_published_ids_alone(path: Path) -> None:
    """At the top, in a task and in a metric: what a version did not know does not count in it."""
    added: dict[str, Any] = {"added": (str | None, "later")}
    metric = create_model("Metric", __base__=schema.Metric, **added)
    tasks = {"metrics": (dict[str, metric], ...), **added}  # type: ignore[valid-type]
    task = create_model("Task", __base__=schema.Task, **tasks)  # type: ignore[call-overload]
    later = create_model("Later", __base__=schema.Result, tasks=(dict[str, task], ...), **added)  # type: ignore[call-overload,valid-type]
    now = formats.migrated(json.loads(path.read_bytes()))
    content = later.model_validate_json(json.dumps(now), strict=True).content()
    assert content["added"] == "later"
    assert next(iter(content["tasks"].values()))["added"] == "later"
    assert run_ids.run_id(content) == json.loads(path.read_bytes())["run_id"]


def test_an_altered_result_of_version_1_is_refused(tmp_path: Path) -> None:
    shutil.copytree(V1, tmp_path / "results")
    path = next((tmp_path / "results").rglob("base.json"))
    content = json.loads(path.read_text())
    content["data"]["splits"]["boolq"] = {"validation": "easy.parquet"}
    path.write_text(json.dumps(content))
    assert any("run_id: not the hash" in problem for problem in verify(tmp_path / "results").problems)


def test_a_result_of_version_1_does_not_say_what_was_asked_and_stands_alone(tmp_path: Path) -> None:
    shutil.copytree(V1, tmp_path / "results")
    path = next((tmp_path / "results").rglob("lora*.json"))
    content = json.loads(path.read_text())
    requests = cell("moa", {"boolq": [1.0, 0.0]})[0].tasks["boolq"].requests
    assert requests
    for task in content["tasks"].values():
        task["requests"] = {name: request.model_dump(mode="json") for name, request in requests.items()}
        task["filter"] = None
    content = formats.migrated(content) | {"schema": schema.RESULT_SCHEMA, "settings": None}
    content["run_id"] = run_ids.run_id(content)
    path.write_text(json.dumps(content))
    with pytest.raises(
        LorafuseError, match=r"tasks\.arc_e\.requests: .*but .* has None\. Run the older again"
    ):
        build([tmp_path / "results"])


def counted(fields: run_ids.Fields, where: str = "") -> set[str]:
    """Every field that is counted, `*` for an entry of a table or list."""
    if not fields:
        return {where}
    return set().union(*(counted(inner, f"{where}.{name}".lstrip(".")) for name, inner in fields.items()))


def test_every_field_counts_or_is_named_as_one_that_does_not(tmp_path: Path) -> None:
    """So that a new field is decided on: what changes scores gets a new version of the schema."""
    router = {"name": "moa", "sha256": "f" * 64, "experts": {}}
    path = write(
        tmp_path,
        "moa",
        {"one": [1.0, 0.0]},
        artefacts=[router],
        settings={},
        truncation={"rule": "middle", "length": 64},
    )
    known = counted(run_ids.IDENTITY[schema.RESULT_SCHEMA]) | NOT_COUNTED
    tables = ("experts", "artefacts", "tasks", "tasks.*.requests")

    def leaves(value: Any, where: str) -> set[str]:
        if where in known or not isinstance(value, dict | list):
            return {where}
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        names = {("*" if where in tables else str(key)): inner for key, inner in pairs}
        return set().union(*(leaves(inner, f"{where}.{name}".lstrip(".")) for name, inner in names.items()))

    assert leaves(json.loads(path.read_text()), "") <= known


def test_batch_size_does_not_name_a_result_and_sampling_does() -> None:
    one, _ = cell("moa", {"one": [1.0, 0.0]})
    other, _ = cell("moa", {"one": [1.0, 0.0]}, batch_size=1)
    assert one.run_id == other.run_id
    assert one.tasks["one"].requests
    request = one.tasks["one"].requests["one"].model_dump(mode="json")
    for change in (
        {"generation": {"do_sample": True}},
        {"filters": [{"name": "first"}]},
        {"repeats": 2},
        {"prompts_sha256": "0" * 64},
        {"output_type": "loglikelihood"},
    ):
        changed, _ = cell("moa", {"one": [1.0, 0.0]}, task={"requests": {"one": request | change}})
        assert changed.run_id != one.run_id, change


def test_a_board_follows_the_suite_that_its_results_keep(tmp_path: Path) -> None:
    """A suite that nothing here knows: its order, its kind, and a task that is missing are known all the same."""
    task = {"metric": "acc", "direction": "up", "unit": "fraction"}
    kept = {"kind": "scored", "tasks": [{"key": key, **task} for key in ("two", "one", "three")]}
    suite: dict[str, Any] = {"suite": "theirs", "definition": kept}
    for label, score in (("base", 0.0), ("oracle", 1.0)):
        write(tmp_path, label, dict.fromkeys(("one", "two", "three"), [score] * 4), **suite)
    write(tmp_path, "svd", dict.fromkeys(("one", "two"), [1.0, 0.0] * 2), **suite)
    (board,) = build([tmp_path]).boards
    assert [column.task for column in board.columns] == ["two", "one", "three"]
    assert next(row for row in board.rows if row.label == "svd").note == "incomplete 2/3"
    oblivion = {**suite, "suite": "after", "definition": {**kept, "kind": "oblivion"}}
    write(tmp_path, "base", dict.fromkeys(("one", "two", "three"), [1.0] * 4), **oblivion)
    assert [board.oblivion for board in build([tmp_path]).boards] == [True, False]
    wrong = {**kept, "tasks": [{**entry, "metric": "f1"} for entry in kept["tasks"]]}
    with pytest.raises(LorafuseError, match=r"tasks\.one\.representative: 'acc', but the suite .* has 'f1'"):
        write(tmp_path, "ties", {"one": [1.0]}, suite="theirs", definition=wrong)
    other = {**kept, "source": "another paper"}
    write(tmp_path, "ties", dict.fromkeys(("one", "two"), [1.0] * 4), suite="theirs", definition=other)
    with pytest.raises(LorafuseError, match=r"definition\.source: 'another paper', but"):
        build([tmp_path])


def test_what_an_older_result_does_not_say_keeps_no_newer_one_from_its_board(tmp_path: Path) -> None:
    """A suite's definition and a metric's measure are kept since they exist; cells of before stand beside."""
    task = {"metric": "acc", "direction": "up", "unit": "fraction"}
    kept = {"kind": "scored", "tasks": [{"key": "one", **task}]}
    for label, score in (("base", 0.0), ("oracle", 1.0)):
        write(
            tmp_path, label, {"one": [score] * 4}, suite="theirs", definition=None, metric={"measure": None}
        )
    write(
        tmp_path, "svd", {"one": [1.0, 0.0] * 2}, suite="theirs", definition=kept, metric={"measure": "mean"}
    )
    (board,) = build([tmp_path]).boards
    assert {row.label for row in board.rows if row.origin == "measured"} == {"base", "oracle", "svd"}
    write(tmp_path, "ties", {"one": [1.0, 0.0] * 2}, suite="theirs", definition={**kept, "source": "another"})
    with pytest.raises(LorafuseError, match=r"definition\.source: 'another', but"):
        build([tmp_path])
