"""Audits find scores that are not the model's, whatever their hashes say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import tiny_zoo
from typer.testing import CliRunner

from lorafuse_bench import runner
from lorafuse_bench.cli import app
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion import registry
from lorafuse_bench.leaderboards.results import cell_files
from lorafuse_bench.leaderboards.results.schema import Items, Result, TaskItems
from lorafuse_bench.progress import Watcher
from lorafuse_bench.zoo.manifest import Zoo


def evaluated(zoo: Zoo, out: Path) -> Path:
    chosen = registry.parse_all("concat")
    (path,) = runner.run(runner.Plan(chosen, ["sst2/squad"], out, zoo.root, batch_size=4, device="cpu"))
    return path


def audit(zoo: Zoo, out: Path, items: int = 2) -> list[tuple[str, int, int]]:
    found = runner.Audit(out, zoo.root, items=items, device="cpu").run(Watcher())
    assert found.fields == ()
    return [(each.task, each.items, len(each.differing)) for each in found.tasks]


def swapped_documents(held: TaskItems) -> TaskItems:
    first, second, *rest = held.doc_hashes
    return held.model_copy(update={"doc_hashes": (second, first, *rest)})


def better_scores(held: TaskItems) -> TaskItems:
    metrics = {name: [1.0 - value for value in values] for name, values in held.metrics.items()}  # type: ignore[operator]
    return held.model_copy(update={"metrics": metrics})


def test_results_of_the_model_pass_and_nothing_is_written(zoo: Zoo, tmp_path: Path) -> None:
    path = evaluated(zoo, tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert audit(zoo, tmp_path) == [("squad", 2, 0), ("sst2", 2, 0)]
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    everything = audit(zoo, tmp_path, items=1000)
    result = cell_files.read_result(path)
    assert everything == [(task, result.tasks[task].n, 0) for task in ("squad", "sst2")]


@pytest.mark.parametrize("forge", [better_scores, swapped_documents])
def test_forged_items_are_found_although_the_hashes_fit(
    zoo: Zoo, tmp_path: Path, forge: Callable[[TaskItems], TaskItems], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = evaluated(zoo, tmp_path)
    result, items = cell_files.read_cell(path)
    forged = Items({**items.root, "sst2": forge(items.root["sst2"])})
    monkeypatch.setattr(cell_files, "read_cell", lambda path: (result, forged))  # as if all hashes fitted
    other, (_, drawn, differing) = audit(zoo, tmp_path, items=1000)
    assert differing == (drawn if forge is better_scores else 2)
    assert other[2] == 0


def of_fewer_documents(result: Result, items: Items) -> tuple[Result, Items]:
    """Only the documents that one likes, said to be all of the split."""
    held = items.root["sst2"]
    fewer = TaskItems(doc_hashes=held.doc_hashes[:2], metrics={k: v[:2] for k, v in held.metrics.items()})
    task = result.tasks["sst2"].model_copy(update={"n": 2, "n_original": 2})
    return (
        result.model_copy(update={"tasks": {**result.tasks, "sst2": task}}),
        Items({**items.root, "sst2": fewer}),
    )


def of_more_documents(result: Result, items: Items) -> tuple[Result, Items]:
    held = items.root["sst2"]
    more = TaskItems(
        doc_hashes=(*held.doc_hashes, "0" * 64), metrics={k: [*v, 1.0] for k, v in held.metrics.items()}
    )
    return result, Items({**items.root, "sst2": more})


def of_a_better_metric(result: Result, items: Items) -> tuple[Result, Items]:
    held = items.root["sst2"]
    best = {**held.metrics, "best": [1.0] * len(held.doc_hashes)}
    return result, Items({**items.root, "sst2": held.model_copy(update={"metrics": best})})


def without_a_task(result: Result, items: Items) -> tuple[Result, Items]:
    """No forgery: the board says that it is incomplete."""
    tasks = {key: task for key, task in result.tasks.items() if key != "squad"}
    kept = {key: held for key, held in items.root.items() if key != "squad"}
    return result.model_copy(update={"tasks": tasks}), Items(kept)


def cheaper(result: Result, items: Items) -> tuple[Result, Items]:
    return result.model_copy(update={"cost": result.cost.model_copy(update={"extra_parameters": 1})}), items


def of_another_suite(result: Result, items: Items) -> tuple[Result, Items]:
    assert result.definition is not None
    return result.model_copy(
        update={"definition": result.definition.model_copy(update={"kind": "oblivion"})}
    ), items


@pytest.mark.parametrize(
    ("forge", "fields", "differing"),
    [
        (of_fewer_documents, ["tasks.sst2.n_original"], 0),
        (of_more_documents, [], 1),
        (of_a_better_metric, ["tasks.sst2.metrics.best"], 0),
        (without_a_task, [], 0),
        (cheaper, ["cost.extra_parameters"], 0),
        (of_another_suite, ["definition.kind"], 0),
    ],
)
def test_what_is_misstated_beside_the_scores_is_found(
    zoo: Zoo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    forge: Callable[[Result, Items], tuple[Result, Items]],
    fields: list[str],
    differing: int,
) -> None:
    forged = forge(*cell_files.read_cell(evaluated(zoo, tmp_path)))
    monkeypatch.setattr(cell_files, "read_cell", lambda path: forged)  # as if all hashes fitted
    found = runner.Audit(tmp_path, zoo.root, items=1000, device="cpu").run(Watcher())
    assert [each.field for each in found.fields] == fields
    assert sum(len(each.differing) for each in found.tasks) == differing


def test_nobody_knows_the_draw_beforehand_and_its_seed_repeats_it(zoo: Zoo, tmp_path: Path) -> None:
    evaluated(zoo, tmp_path)
    seeds = {runner.Audit(tmp_path, zoo.root, items=1, device="cpu").run(Watcher()).seed for _ in range(2)}
    assert len(seeds) == 2
    assert runner.Audit(tmp_path, zoo.root, items=1, seed=7, device="cpu").run(Watcher()).seed == 7


def test_a_result_of_another_zoo_is_refused(
    zoo: Zoo, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    evaluated(zoo, tmp_path)
    other = tiny_zoo(tmp_path_factory.mktemp("other"), experts=7, mixed=True)
    changed = Zoo(other.root, other.manifest.model_copy(update={"data": zoo.manifest.data}))
    changed.save()
    with pytest.raises(LorafuseError, match="was made with another"):
        audit(changed, tmp_path)


def test_a_cell_that_the_zoo_cannot_make_is_named_and_the_others_are_evaluated(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = evaluated(zoo, tmp_path)
    (plain,) = runner.run(
        runner.Plan(
            registry.parse_all("base"), ["sst2/squad"], tmp_path, zoo.root, batch_size=4, device="cpu"
        )
    )
    read = cell_files.read_cell

    def fitted(where: Path) -> tuple[Result, Items]:
        result, items = read(where)
        method = result.method.model_copy(update={"name": "hc", "options": {}})
        return result.model_copy(update={"method": method}) if where == path else result, items

    monkeypatch.setattr(cell_files, "read_cell", fitted)
    found = runner.Audit(tmp_path, zoo.root, items=1, device="cpu").run(Watcher())
    assert {each.path for each in found.tasks} == {plain}
    assert list(found.unmade) == [path] and "lorafuse fit hc" in found.unmade[path]
    words = ["leaderboard", "audit", str(tmp_path), "--zoo", str(zoo.root), "--items", "1", "--device", "cpu"]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 1 and "not evaluated: " in shown.stdout


def test_a_published_folder_is_audited_as_it_is(zoo: Zoo, tmp_path: Path) -> None:
    evaluated(zoo, tmp_path / "board" / "results")
    assert audit(zoo, tmp_path / "board") == [("squad", 2, 0), ("sst2", 2, 0)]


def test_a_folder_without_results_is_said(zoo: Zoo, tmp_path: Path) -> None:
    with pytest.raises(LorafuseError, match="no results in"):
        audit(zoo, tmp_path)


def test_the_command_says_what_differs(zoo: Zoo, tmp_path: Path) -> None:
    evaluated(zoo, tmp_path)
    words = ["leaderboard", "audit", str(tmp_path), "--zoo", str(zoo.root), "--items", "1", "--device", "cpu"]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    assert "0 of 2 items differ" in shown.stdout
    told = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert isinstance(told["seed"], int) and told["fields"] == [] and told["unmade"] == {}
    assert [(each["task"], each["items"], each["differing"]) for each in told["tasks"]] == [
        ("squad", 1, []),
        ("sst2", 1, []),
    ]
