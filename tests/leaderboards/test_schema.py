"""Results on disk: what is written is read back; what was damaged is refused by file and field."""

import gzip
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_cells import cell, write

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.results import cell_files, layout

SCORES = {"one": [1.0, 0.0, 1.0], "two": [[3, 3, 3, 2, 1, 0, 3, 2, 1, 0], [4, 5, 4, 3, 2, 1, 4, 3, 2, 1]]}


def test_a_cell_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    result, items = cell("moa:pool=mean", SCORES)
    path = cell_files.write_cell(tmp_path, result, items)
    assert path == tmp_path / "toy" / "mini-1" / "moa@pool=mean.json"
    assert cell_files.read_cell(path) == (result, items)


def test_a_cell_written_twice_has_the_same_bytes(tmp_path: Path) -> None:
    for out in ("a", "b"):
        path = write(tmp_path / out, "moa", SCORES)
    twin = tmp_path / "a" / path.relative_to(tmp_path / "b")
    assert twin.read_bytes() == path.read_bytes()
    assert layout.items_path(twin).read_bytes() == layout.items_path(path).read_bytes()


def test_the_run_id_follows_inputs_only() -> None:
    result, _ = cell("moa", SCORES)
    scores = {"one": [0.0, 0.0, 0.0], "two": SCORES["two"][::-1]}
    other = {"cost": {"eval_seconds": 9.0}, "environment": {"hardware": "another"}, "batch_size": 1}
    same, _ = cell("moa", scores, **other)
    assert same.run_id == result.run_id
    assert len(result.run_id) == 64
    for change in (
        {"limit": 5},
        {"zoo": {"sha256": "f" * 64}},
        {"method": {"version": "2"}},
        {"method": {"source_sha256": "f" * 64}},
        {"base": {"tokenizer_sha256": "f" * 64}},
        {"settings": {"system_instruction": "Be brief."}},
        {"settings": {"chat_template": "default"}},
        {"settings": {"model": {"add_bos_token": True}}},
        {"task": {"filter": "strict-match"}},
        {"artefacts": [{"name": "moa", "sha256": "f" * 64, "experts": {}}]},
        {"seeds": {"torch": 1}},
        {"documents": "other "},
        {"task": {"few_shot": 1}},
        {"task": {"requests": None}},
        {"max_length": 64},
        {"truncation": {"rule": "middle", "length": 64}},
    ):
        assert cell("moa", SCORES, **change)[0].run_id != result.run_id


@given(st.text(min_size=1), st.text(min_size=1))
def test_slugs_are_safe_names_and_differ(a: str, b: str) -> None:
    name = layout.slug(a)
    assert set(name).isdisjoint('/\\:*?"<>| \0')
    assert not name.startswith(".")
    assert len(name) <= 140
    assert a == b or name != layout.slug(b)


def test_slugs_keep_the_usual_label_readable() -> None:
    assert layout.slug("moa:decision=vote,pool=mean") == "moa@decision=vote,pool=mean"
    assert layout.slug("../up") == "%2E.%2Fup"


def test_a_bad_field_is_named() -> None:
    with pytest.raises(LorafuseError, match=r"result: zoo\.init: "):
        cell("moa", SCORES, zoo={"init": "sometimes"})
    with pytest.raises(LorafuseError, match=r"result: cost\.fuse_seconds: "):
        cell("moa", SCORES, cost={"fuse_seconds": math.nan})


def test_items_that_do_not_bear_the_result_out_are_not_written(tmp_path: Path) -> None:
    result, _ = cell("moa", {"one": [1.0, 0.0]})
    _, other = cell("moa", {"one": [1.0, 1.0]})
    with pytest.raises(LorafuseError, match=r"one\.metrics\.acc: the items make 1, the result says 0\.5"):
        cell_files.write_cell(tmp_path, result, other)
    assert not list(tmp_path.iterdir())


def edit_result(path: Path, *keys: str, to: object) -> None:
    """Set one field of a result file."""
    content = json.loads(path.read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("keys", "to", "message"),
    [
        (["schema"], "lorafuse.result/9", "schema: 'lorafuse.result/9' is unknown"),
        (["run_id"], "0" * 64, "run_id: not the hash"),
        (["suite"], "other", "run_id: not the hash"),
        (["zoo", "seed"], "one", r"zoo\.seed"),
        (["surplus"], 1, "surplus"),
        (["tasks", "one", "metrics", "acc", "value"], math.nan, r"tasks\.one\.metrics\.acc\.value"),
        (["tasks", "one", "metrics", "acc", "value"], 0.9, r"one\.metrics\.acc: the items make"),
        (["tasks", "one", "metrics", "acc", "direction"], "sideways", r"tasks\.one\.metrics\.acc\.direction"),
        (["tasks", "one", "n"], 4, "run_id: not the hash"),
        (["tasks", "one", "representative"], "f1", "run_id: not the hash"),
        (["tasks"], {}, "run_id: not the hash"),
        (["items_sha256"], "0" * 64, "not the items of .*items_sha256"),
        (["tasks", "one", "docs_sha256"], "0" * 64, "run_id: not the hash"),
        (["tasks", "one", "metrics", "acc", "stderr_method"], "ratio", "of kind 'mean'"),
    ],
)
def test_an_altered_result_is_refused_by_field(
    tmp_path: Path, keys: list[str], to: object, message: str
) -> None:
    path = write(tmp_path, "moa", SCORES)
    edit_result(path, *keys, to=to)
    with pytest.raises(LorafuseError, match=message) as caught:
        cell_files.read_cell(path)
    assert "moa" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("acc", "message"),
    [
        ([1.0, 0.0], "2 items, but"),
        ([1.0, 0.0, math.nan], r"items\.json\.gz: one\.metrics\.acc"),
        ([[1.0], [0.0], [1.0]], "not of measure 'mean'"),
        ([[1.0], [0.0, 1.0], [1.0]], "no known kind"),
        (["good", "bad", "good"], r"one\.metrics\.acc"),
    ],
)
def test_altered_items_are_refused(tmp_path: Path, acc: list[object], message: str) -> None:
    path = layout.items_path(write(tmp_path, "moa", SCORES))
    content = json.loads(gzip.decompress(path.read_bytes()))
    content["one"]["metrics"]["acc"] = acc
    path.write_bytes(gzip.compress(json.dumps(content).encode()))
    with pytest.raises(LorafuseError, match=message):
        cell_files.read_cell(path.with_name("moa.json"))


@pytest.mark.parametrize("name", ["moa.json", "moa.items.json.gz"])
@pytest.mark.parametrize("damage", [b"", b"\x1f\x8b\x08", b"{", b"[1]", b"\xff\xfe", None])
def test_broken_files_are_refused(tmp_path: Path, name: str, damage: bytes | None) -> None:
    path = write(tmp_path, "moa", SCORES)
    victim = path.with_name(name)
    victim.unlink() if damage is None else victim.write_bytes(damage)
    with pytest.raises(LorafuseError, match=name):
        cell_files.read_cell(path)
