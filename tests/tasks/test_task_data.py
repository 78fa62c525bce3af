"""Which source rows come from, which files serve a split, and what is said when something is missing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from handmade import DATASETS, GOALS, REVIEWS, write_split

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.tasks import data
from lorafuse_bench.tasks.data import load, resolve_source, served_by
from lorafuse_bench.tasks.rows import load_task, training_rows
from lorafuse_bench.zoo import installed
from lorafuse_bench.zoo.manifest import BaseEntry, Manifest, Zoo

SST2 = {"hub": "nyu-mll/glue", "name": "sst2", "columns": ["sentence", "label"]}


@pytest.fixture(autouse=True)
def _no_data_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LORAFUSE_DATA", raising=False)


def make_zoo(root: Path, source: str) -> str:
    entry = BaseEntry(path="base", sha256="0" * 64)
    root.mkdir(parents=True)
    Zoo(root, Manifest(name="z", seed=0, base=entry, init="shared", experts=(), data=source)).save()
    return str(root)


def test_hub_when_nothing_is_named() -> None:
    assert resolve_source() == "hub"


def test_argument_beats_environment_beats_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    zoo = make_zoo(tmp_path / "zoo", "rows")
    (tmp_path / "zoo" / "rows").mkdir()
    assert resolve_source(zoo=zoo) == str((tmp_path / "zoo" / "rows").resolve())
    monkeypatch.setenv("LORAFUSE_DATA", str(there))
    assert resolve_source(zoo=zoo) == str(there)
    assert resolve_source(data=str(here), zoo=zoo) == str(here)
    assert resolve_source(data="hub", zoo=zoo) == "hub"


def test_a_method_without_a_zoo_means_the_embedded_zoo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_zoo(tmp_path / "mini", "mini")
    monkeypatch.setattr(installed, "embedded_root", lambda: tmp_path / "mini")
    assert resolve_source(method="moa") == "mini"
    assert resolve_source(zoo=make_zoo(tmp_path / "real", "hub"), method="moa") == "hub"


def test_source_that_is_no_directory(tmp_path: Path) -> None:
    with pytest.raises(LorafuseError, match=r"'.*/nowhere' is not a directory.*LORAFUSE_DATA"):
        resolve_source(data=str(tmp_path / "nowhere"))


def test_a_source_that_is_named_by_nothing_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--data "$ROWS"` where nobody has set ROWS; a variable of ours that is empty is one that is not set."""
    monkeypatch.setenv("LORAFUSE_DATA", "")
    assert resolve_source() == "hub"
    with pytest.raises(LorafuseError, match="data source '' is not a directory"):
        resolve_source(data="", zoo="mini")


def test_load_ignores_what_other_parts_of_lm_eval_are_told(handmade_data: Path) -> None:
    splits = load(
        SST2,
        data=str(handmade_data),
        method="moa",
        rank=4,
        dtype="float32",
        revision="main",
        name="x",
        version=1,
    )
    assert splits["validation"]["sentence"] == [row["sentence"] for row in REVIEWS]
    assert splits.provenance == {"validation": "validation.parquet"}


def names(folder: Path, split: str) -> list[str]:
    return [file.name for file in served_by(folder, split)]


def test_stand_ins_serve_missing_splits_and_keep_evaluation_disjoint(tmp_path: Path) -> None:
    for split in ("train_standin", "validation", "validation_standin"):
        write_split(tmp_path, split, GOALS)
    assert names(tmp_path, "train") == ["train_standin.parquet"]
    assert names(tmp_path, "validation") == ["validation_standin.parquet"]
    write_split(tmp_path, "train", GOALS)
    assert names(tmp_path, "train") == ["train.parquet"]
    assert names(tmp_path, "validation") == ["validation.parquet"]


def test_a_stand_in_for_training_alone_leaves_evaluation_alone(tmp_path: Path) -> None:
    for split in ("train_standin", "validation"):
        write_split(tmp_path, split, GOALS)
    assert names(tmp_path, "validation") == ["validation.parquet"]


def test_more_rows_continue_a_split(tmp_path: Path) -> None:
    folder = tmp_path / "nyu-mll__glue" / "sst2"
    write_split(folder, "train", REVIEWS[:2])
    write_split(folder, "train_more", REVIEWS[2:])
    splits = load(SST2, data=str(tmp_path))
    assert splits["train"]["label"] == [1, 0, 1]
    assert splits.provenance == {"train": "train.parquet + train_more.parquet"}


def test_missing_dataset_split_column_and_rows(tmp_path: Path) -> None:
    splits = load(SST2, data=str(tmp_path))
    with pytest.raises(LorafuseError, match="nyu-mll__glue/sst2: this data source lacks the dataset"):
        splits["validation"]
    folder = tmp_path / "nyu-mll__glue" / "sst2"
    write_split(folder, "train", REVIEWS)
    with pytest.raises(LorafuseError, match=r"no .*validation.parquet \(beside it: train.parquet\). Add"):
        splits["validation"]
    write_split(folder, "validation", [{"text": "a", "label": 0}])
    with pytest.raises(LorafuseError, match=r"no column 'sentence' \(it has text, label\). Give"):
        splits["validation"]
    write_split(folder, "test", REVIEWS[:1])
    (folder / "broken.parquet").write_bytes(b"not parquet")
    with pytest.raises(LorafuseError, match=r"broken.parquet is not readable parquet: .*Download or build"):
        splits["broken"]


def test_a_split_without_rows(tmp_path: Path) -> None:
    write_split(tmp_path / "nyu-mll__glue" / "sst2", "train", REVIEWS)
    file = tmp_path / "nyu-mll__glue" / "sst2" / "train.parquet"
    import pyarrow.parquet as parquet

    parquet.write_table(parquet.read_table(file).slice(0, 0), file)
    with pytest.raises(LorafuseError, match="no rows"):
        load(SST2, data=str(tmp_path))["train"]


def test_hidden_labels_are_refused(tmp_path: Path) -> None:
    rows = [{"sentence": "a", "label": -1, "idx": 0}]
    write_split(tmp_path / "nyu-mll__glue" / "sst2", "train", rows)
    write_split(tmp_path / "nyu-mll__glue" / "sst2", "validation", REVIEWS)
    with pytest.raises(LorafuseError, match="label -1, which is none of negative, positive"):
        training_rows("sst2", str(tmp_path))[0]


def test_a_directory_that_names_piqa_by_its_authors_serves_it(tmp_path: Path) -> None:
    rows = [{"goal": "Open a jar.", "sol1": "Turn the lid.", "sol2": "Turn the jar into a lid.", "label": 0}]
    for split in ("train", "validation"):
        write_split(tmp_path / "ybisk__piqa" / "plain_text", split, rows)
    assert training_rows("piqa", str(tmp_path))[0].target == " 1"


@pytest.mark.parametrize("key", DATASETS)
def test_the_hub_is_asked_for_the_right_split_and_renders_the_same(
    key: str, handmade_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, evaluation, rows, features = DATASETS[key]
    calls: list[tuple[Any, ...]] = []

    def hub(path: str, name: str | None, *, revision: str | None, split: str) -> Dataset:
        calls.append((path, name, revision, split))
        return Dataset.from_list(rows, features=features)

    monkeypatch.setattr(data, "load_dataset", hub)
    local, remote = (load_task(f"lorafuse_{key}", source) for source in (str(handmade_data), "hub"))
    dataset, _, name = folder.partition("/")
    pinned = remote.config.dataset_kwargs["dataset"].get("revision")
    assert calls == [(dataset.replace("__", "/"), None if name == "default" else name, pinned, evaluation)]
    assert list(remote.dataset.provenance.values()) == [f"{dataset.replace('__', '/')}@{pinned or 'main'}"]
    for ours, theirs in zip(local.test_docs(), remote.test_docs(), strict=True):
        assert local.doc_to_text(ours) == remote.doc_to_text(theirs)
        assert local.doc_to_target(ours) == remote.doc_to_target(theirs)


def test_rows_under_another_name_serve_where_the_datasets_own_folder_is_missing(tmp_path: Path) -> None:
    write_split(
        tmp_path / "them__all" / "all", "test", [{"subject": s, "n": str(n)} for n, s in enumerate("abab")]
    )
    named = {"hub": "us/all", "name": "b", "elsewhere": "them__all/all", "columns": ["n"]}
    splits = load({**named, "where": "subject"}, data=str(tmp_path))
    assert splits["test"]["n"] == ["1", "3"]
    assert splits.provenance == {"test": "them__all/all/test.parquet"}
    assert load(named, data=str(tmp_path))["test"]["n"] == ["0", "1", "2", "3"]
    write_split(tmp_path / "us__all" / "b", "test", [{"n": "9"}])
    own = load({**named, "where": "subject"}, data=str(tmp_path))
    assert own["test"]["n"] == ["9"] and own.provenance == {"test": "test.parquet"}


def test_a_generated_directory_writes_what_it_does_not_hold(tmp_path: Path) -> None:
    cola = {"hub": "nyu-mll/glue", "name": "cola", "columns": ["sentence", "label"]}
    with pytest.raises(LorafuseError, match="lacks the dataset"):
        load(cola, data=str(tmp_path))["train"]
    (tmp_path / "build.json").write_text('{"seed": 0}')
    splits = load(cola, data=str(tmp_path))
    assert splits["validation"].to_list() == load(cola, data="mini")["validation"].to_list()
    assert splits.provenance == {"validation": "generated, world 0"}
    with pytest.raises(
        LorafuseError, match=r"no split 'test' of nyu-mll__glue/cola \(it has train, validation\)"
    ):
        splits["test"]
    with pytest.raises(
        LorafuseError, match=r"no split 'train' of no__such/default \(it has no such dataset\)"
    ):
        load({"hub": "no/such"}, data="mini")["train"]


def test_a_hub_failure_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> Dataset:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(data, "load_dataset", offline)
    with pytest.raises(
        LorafuseError, match=r"'nyu-mll/glue' \(sst2, split train\).*no route to host.*data="
    ) as found:
        load(SST2)["train"]
    assert "\n" not in str(found.value)


def test_a_revision_in_the_yaml_reaches_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def hub(*_: object, revision: str | None, split: str) -> Dataset:
        seen.append(revision)
        return Dataset.from_list(REVIEWS)

    monkeypatch.setattr(data, "load_dataset", hub)
    splits = load({**SST2, "revision": "abc"})
    assert len(splits["train"]) == len(REVIEWS)
    assert seen == ["abc"]
    assert splits.provenance == {"train": "nyu-mll/glue@abc"}


def test_suites_need_neither_lm_eval_nor_torch() -> None:
    import subprocess

    code = (
        "import sys, lorafuse_bench.tasks.suites; print({'torch', 'lm_eval', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_column_with_nulls_is_refused_before_anything_is_read_as_text(tmp_path: Path) -> None:
    rows = [*REVIEWS, {"sentence": None, "label": 1}]
    write_split(tmp_path / "nyu-mll__glue" / "sst2", "train", rows)
    with pytest.raises(LorafuseError, match=r"train.parquet: column 'sentence' is null in 1 places. Fill or"):
        load(SST2, data=str(tmp_path))["train"]
