"""Where a base is looked for: the manifest's folder, the cache, the hub; else the command that makes it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny import tiny_zoo

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.zoo import locate, manifest
from lorafuse_bench.zoo.locate import cached_base, is_hub_id
from lorafuse_bench.zoo.manifest import Zoo


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LORAFUSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def with_base(zoo: Zoo, **fields: object) -> Zoo:
    base = zoo.manifest.base.model_copy(update=fields)
    return Zoo(zoo.root, zoo.manifest.model_copy(update={"base": base}))


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LORAFUSE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cached_base("ab" * 32) == Path("/somewhere/lorafuse/bases/abababababababab")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/one")
    assert cached_base("ab" * 32) == Path("/home/one/.cache/lorafuse/bases/abababababababab")


def test_a_base_that_is_not_in_the_zoo_is_taken_from_the_cache(tmp_path: Path, cache: Path) -> None:
    zoo = tiny_zoo(tmp_path / "zoo")
    (cache / "bases").mkdir(parents=True)
    shutil.move(zoo.root / "base", cached_base(zoo.manifest.base.sha256))
    assert zoo.base_folder() == cached_base(zoo.manifest.base.sha256)
    (zoo.base_folder() / "model.safetensors").write_bytes(b"other")
    with pytest.raises(LorafuseError, match="is not the one its experts were trained on"):
        zoo.base_folder()


def test_a_base_that_is_nowhere_names_the_command_that_makes_it(tmp_path: Path) -> None:
    zoo = tiny_zoo(tmp_path / "zoo")
    shutil.rmtree(zoo.root / "base")
    zoo = with_base(zoo, path="../tiny-lm", name="Tiny LM", make="lorafuse zoo base tiny.gguf")
    with pytest.raises(LorafuseError, match=r"its base 'Tiny LM' .* Make it: lorafuse zoo base tiny\.gguf"):
        zoo.find_base()


def test_the_hub_is_asked_for_what_reads_as_a_hub_id_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None]] = []

    def download(repo: str, revision: str | None) -> Path:
        asked.append((repo, revision))
        return tmp_path

    monkeypatch.setattr(manifest, "download", download)
    zoo = tiny_zoo(tmp_path / "zoo")
    shutil.rmtree(zoo.root / "base")
    for path in ("base", "../base", "../../a/b"):
        with pytest.raises(LorafuseError, match="is not in"):
            with_base(zoo, path=path).find_base()
    assert with_base(zoo, path="Qwen/Qwen2-0.5B", revision="r").find_base() == tmp_path
    assert with_base(zoo, path="../base", hub="gpt2").find_base() == tmp_path
    assert asked == [("Qwen/Qwen2-0.5B", "r"), ("gpt2", None)]


@pytest.mark.parametrize("text", ["Qwen/Qwen2-0.5B", "a/b"])
def test_hub_ids(text: str) -> None:
    assert is_hub_id(text)


@pytest.mark.parametrize("text", ["base", "../a", "./a/b", "a/b/c", "/a/b", "a//b", ""])
def test_no_hub_ids(text: str) -> None:
    assert not is_hub_id(text)


def test_any_fault_of_the_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fails(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    with pytest.raises(
        LorafuseError, match=r"'a/b' is not a folder, and .* ConnectionError: no route to host"
    ) as caught:
        locate.download("a/b")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "tiny"),  # inside the zoo
        ({"path": "../small-lm"}, "small-lm"),
        ({"path": "../small-lm", "hub": "who/small"}, "who/small"),
        ({"path": "who/small"}, "who/small"),
        ({"path": "../small-lm", "name": "Small LM"}, "Small LM"),
    ],
)
def test_a_base_has_a_name_and_never_a_path(tmp_path: Path, fields: dict[str, str], name: str) -> None:
    assert with_base(tiny_zoo(tmp_path / "zoo"), **fields).base_name == name
