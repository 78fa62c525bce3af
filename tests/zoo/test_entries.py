"""What a manifest may say: old files stay readable, damaged ones are refused in one line."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tiny import add_router, tiny_zoo

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.zoo.entries import ExpertEntry, Manifest, read_manifest
from lorafuse_bench.zoo.manifest import Zoo

DIGEST = "0" * 64


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The manifest of a tiny zoo."""
    zoo = add_router(tiny_zoo(tmp_path_factory.mktemp("zoo")))
    return json.loads((zoo.root / "manifest.json").read_text())


def test_one_task_as_written_before_is_read_as_a_tuple_of_one() -> None:
    old = {"name": "e", "task": "sst2", "path": "experts/e", "sha256": DIGEST, "base_sha256": DIGEST}
    entry = ExpertEntry.model_validate(old)
    assert (entry.tasks, entry.task, entry.bank) == (("sst2",), "sst2", "private")


def test_an_expert_may_serve_several_tasks_and_two_experts_one(plain: dict[str, Any], tmp_path: Path) -> None:
    first, second = plain["experts"][:2]
    experts = [{**first, "tasks": ["sst2", "mnli"], "bank": "mbc"}, {**second, "tasks": ["sst2"]}]
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**plain, "experts": experts, "artefacts": []}))
    assert [entry.tasks for entry in read_manifest(path).experts] == [("sst2", "mnli"), ("sst2",)]


def test_changes_made_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    zoo, both = tiny_zoo(tmp_path, experts=2), threading.Barrier(2, timeout=10)

    def note(key: str) -> None:
        def slowly(manifest: Manifest | None) -> Manifest:
            assert manifest is not None
            time.sleep(0.1)  # the other one reads meanwhile, where it can
            return manifest.model_copy(update={"training": {**manifest.training, key: 1}})

        both.wait()
        Zoo.update(zoo.root, slowly)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(note, ("a", "b")))
    assert Zoo.open(tmp_path).manifest.training == {"a": 1, "b": 1}
    assert not list(tmp_path.glob(".*"))


def changed(manifest: dict[str, Any], where: str, value: Any) -> dict[str, Any]:
    """A copy with one field replaced; `where` is its path, parts separated by dots."""
    copy = json.loads(json.dumps(manifest))
    *parents, last = [int(part) if part.isdigit() else part for part in where.split(".")]
    target = copy
    for part in parents:
        target = target[part]
    target[last] = value
    return copy


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        ("seed", -1, "seed: Input should be greater"),
        ("seed", 10**30, "seed: Input should be less"),
        ("seed", "many", "seed: Input should be a valid integer"),
        ("schema", "lorafuse.zoo/9", "schema: Input should be 'lorafuse.zoo/1'"),
        ("base", None, "base: Input should be"),
        ("base.sha256", "abc", "base.sha256: String should match"),
        ("experts", {}, "experts: Input should be a valid array"),
        ("experts.0", [], "experts.0: Input should be"),
        ("experts.0.tasks", [], "experts.0.tasks: Tuple should have at least 1 item"),
        ("experts.0.tasks", [7], "experts.0.tasks.0: Input should be a valid string"),
        ("experts.0.bank", "public", "experts.0.bank: Input should be"),
        ("experts.1.name", "sst2", "experts: 2 of them are named 'sst2'"),
        ("experts.0.name", "", "experts.0.name: String should have at least 1"),
        ("experts.0.name", "n" * 4000, "experts.0.name: String should have at most 200"),
        ("experts.0.name", "a\nb", "experts.0.name: holds control characters"),
        (
            "experts.0.path",
            "../elsewhere",
            "experts.0.path: '../elsewhere' leads outside the zoo",
        ),
        ("experts.0.path", "/etc", "experts.0.path: '/etc' leads outside"),
        ("experts.0.path", "experts/../../x", "experts.0.path: 'experts/../../x' leads outside"),
        ("experts.0.path", "p" * 5000, "experts.0.path: String should have at most 1000"),
        ("experts.0.path", "a\0b", "experts.0.path: holds control characters"),
        ("artefacts.0.path", "../../r", "artefacts.0.path: '../../r' leads outside"),
        ("artefacts.0.sha256", None, "artefacts.0.sha256: Input should be a valid string"),
        ("max_length", 3, "max_length: Input should be greater than or equal to 8"),
        ("data", "", "data: String should have at least 1"),
    ],
)
def test_a_wrong_field_is_named_in_one_line(
    plain: dict[str, Any], tmp_path: Path, where: str, value: Any, said: str
) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(changed(plain, where, value)))
    with pytest.raises(LorafuseError) as caught:
        Zoo.open(tmp_path)
    assert said in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b'"text"',
        b"\xff\xfe{}",
        b"[" * 100_000 + b"]" * 100_000,
        b'{"training":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"training": {"alpha": NaN}',
    ],
    ids=["empty", "list", "cut", "string", "not-utf8", "deep-lists", "deep-objects", "nan"],
)
def test_a_file_that_is_no_manifest_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(LorafuseError) as caught:
        Zoo.open(tmp_path)
    assert "Rebuild or correct the manifest" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_too_long_for_the_file_system_is_refused() -> None:
    with pytest.raises(LorafuseError, match="File name too long"):
        Zoo.open("z" * 5000)


def test_routers_of_older_manifests_are_artefacts_with_options(plain: dict[str, Any], tmp_path: Path) -> None:
    old = {key: value for key, value in plain.items() if key != "artefacts"}
    said = {
        "name": "moa-mean",
        "method": "moa",
        "path": "routers/moa-mean",
        "sha256": "0" * 64,
        "experts": ["sst2"],
    }
    router = {**said, "settings": {"pool": "mean", "training": "joint", "seed": 0}}
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**old, "routers": [router]}))
    entry = read_manifest(path).artefacts[0]
    assert entry.options == {"pooling": "mean", "training": "joint"}
    assert (entry.file, entry.fitted_on) == ("router.safetensors", None)
