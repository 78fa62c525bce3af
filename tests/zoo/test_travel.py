"""Zoos and adapters on the hub, against a stand-in: pushed, opened, added, and every refusal in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hub_stand_in import TOKEN, Hub, hub  # noqa: F401
from tiny import add_router, tiny_model, tiny_zoo, write_adapter
from typer.testing import CliRunner

import lorafuse_bench as lf
from lorafuse_bench import cli
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.zoo import locate
from lorafuse_bench.zoo.manifest import Zoo


def call(*words: object) -> Any:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def refusal(*words: object) -> str:
    """The one line that a command ends with."""
    done = call(*words)
    assert done.exit_code == 2, done.output
    (line,) = (line for line in done.stderr.splitlines() if "lorafuse: " in line)
    assert TOKEN not in done.output and "Traceback" not in done.output
    return str(line)


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    return add_router(tiny_zoo(tmp_path / "zoo"))


@pytest.fixture
def pushed(zoo: Zoo, hub: Hub) -> Zoo:  # noqa: F811
    done = call("zoo", "push", zoo.root, "--repo", "me/zoo", "--yes")
    assert done.exit_code == 0, done.output
    return zoo


def test_a_dry_run_lists_the_files_and_asks_nothing(zoo: Zoo, hub: Hub) -> None:  # noqa: F811
    done = call("zoo", "push", zoo.root, "--repo", "me/zoo")
    assert "experts/sst2/adapter_model.safetensors" in done.stdout and "dry run:" in done.stdout
    assert hub.asked == []


def test_a_pushed_zoo_is_opened_by_its_name_and_scores_the_same(pushed: Zoo, hub: Hub) -> None:  # noqa: F811
    card = hub.repos["me/zoo"]["README.md"].decode()
    assert "lorafuse run --zoo me/zoo" in card and "| mnli | mnli |" in card
    assert not any(str(pushed.root).encode() in content for content in hub.repos["me/zoo"].values())
    for name in ("me/zoo", "me/zoo@v1"):
        opened = Zoo.open(name)
        assert opened.sha256() == pushed.sha256()
    ours, theirs = lf.fuse(pushed, "moa", device="cpu"), lf.fuse("me/zoo", "moa", device="cpu")
    assert ours.generate("one", 5, "sst2") == theirs.generate("one", 5, "sst2")
    with pytest.raises(LorafuseError, match="hub's copy of a zoo, and read-only"):
        opened.save()
    gone = len(hub.asked)
    Zoo.open("me/zoo")
    assert len(hub.asked) == gone, "asked once for a process"


@pytest.mark.timeout(60)
def test_large_files_of_a_zoo_travel_by_lfs(
    zoo: Zoo,
    hub: Hub,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # a protocol of the hub's own
    weights = {path: path.read_bytes() for path in zoo.root.rglob("*.safetensors")}
    hub.large = min(map(len, weights.values()))
    done = call("zoo", "push", zoo.root, "--repo", "me/zoo", "--yes")
    assert done.exit_code == 0, done.output
    assert set(weights.values()) <= set(hub.stored.values())
    for path, content in weights.items():
        assert hub.repos["me/zoo"][path.relative_to(zoo.root).as_posix()] == content
    assert Zoo.open("me/zoo").sha256() == zoo.sha256()


def test_an_interrupted_download_goes_on_where_it_stopped(pushed: Zoo, hub: Hub) -> None:  # noqa: F811
    weights = "base/model.safetensors"
    hub.cut.append(weights)
    Zoo.open("me/zoo").base_folder()  # its hash is the manifest's
    gets = [path for how, path, _ in hub.asked if how == "GET" and path.endswith(weights)]
    assert len(gets) == 2


def test_files_that_were_fetched_are_not_fetched_again(pushed: Zoo, hub: Hub) -> None:  # noqa: F811
    whole = hub.repos["me/zoo"]
    hub.repos["me/zoo"] = {k: v for k, v in whole.items() if "squad" not in k}
    with pytest.raises(LorafuseError, match="expert 'squad'"):
        Zoo.open("me/zoo").check_whole()
    hub.repos["me/zoo"] = whole
    locate._hub_zoo.cache_clear()
    hub.asked.clear()
    Zoo.open("me/zoo").check_whole()
    got = {path.partition("/resolve/")[2].partition("/")[2] for how, path, _ in hub.asked if how == "GET"} - {
        ""
    }
    assert got == {"experts/squad/adapter_model.safetensors", "experts/squad/adapter_config.json"} & set(
        whole
    ) or all("squad" in name for name in got)


@pytest.mark.parametrize("command", [["zoo", "show"], ["zoo", "add", "new", "--task", "sst2"]])
def test_what_the_hub_does_not_give_is_one_line(
    hub: Hub,  # noqa: F811
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    hub.repos |= {"me/gated": {}, "me/private": {}, "me/empty": {"README.md": b"x"}}
    hub.faults |= {"me/gated": "gated", "me/private": "private"}
    assert "it is gated. Ask for access" in refusal(*command, "me/gated")
    assert "no such repository, or it is private" in refusal(*command, "me/private")
    assert "no such repository, or it is private" in refusal(*command, "me/absent")
    assert "me/empty' holds no" in refusal(*command, "me/empty")
    revision = ["me/empty", "--revision", "v9"] if "add" in command else ["me/empty@v9"]
    assert "it has no revision 'v9'" in refusal(*command, *revision)
    hub.down = True
    locate._hub_zoo.cache_clear()
    assert "Check the connection" in refusal(*command, "me/absent")


def test_a_push_without_permission_is_one_line(
    zoo: Zoo,
    hub: Hub,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub.readers.add("hf_reader")
    for token, said in (("hf_reader", "answers 403"), ("hf_bad", "answers 401")):
        monkeypatch.setenv("HF_TOKEN", token)
        told = refusal("zoo", "push", zoo.root, "--repo", "me/zoo", "--yes")
        assert said in told and token not in told
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert "no token of the hub" in refusal("zoo", "push", zoo.root, "--repo", "me/zoo", "--yes")
    assert hub.repos == {}


@pytest.mark.parametrize(
    "name", ["bad", "a/b/c", "me/", "/zoo", "me/zoo@v1", "me/../zoo", "https://hub/me/zoo"]
)
def test_a_name_of_no_repository_is_refused_before_the_work(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    for words in (
        ["zoo", "push", "mini", "--repo", name],
        ["export", "--method", "svd", "--out", out, "--push", name],
        ["leaderboard", "publish", tmp_path, "--repo", name],
    ):
        done = call(*words)
        assert done.exit_code == 2 and "Write OWNER/NAME." in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
    assert not out.exists()


def test_a_zoo_whose_base_others_cannot_have_is_not_pushed(zoo: Zoo, tmp_path: Path) -> None:
    (zoo.root / "base").rename(tmp_path / "elsewhere")
    moved = call("zoo", "rebase", zoo.root, "--base", tmp_path / "elsewhere")
    assert moved.exit_code == 0, moved.output
    assert "where others cannot get it" in refusal("zoo", "push", zoo.root, "--repo", "me/zoo")


def test_a_strangers_zoo_names_nothing_outside_itself(pushed: Zoo, hub: Hub) -> None:  # noqa: F811
    manifest = json.loads(hub.repos["me/zoo"]["manifest.json"])
    for change in ({"data": "../../secrets"}, {"base": manifest["base"] | {"path": "/etc"}}):
        hub.repos["me/zoo"]["manifest.json"] = json.dumps(manifest | change).encode()
        locate._hub_zoo.cache_clear()
        assert "outside itself. It is not opened" in refusal("zoo", "show", "me/zoo")


def adapter(folder: Path, seed: int, **settings: object) -> dict[str, bytes]:
    """Files of an adapter that fits the tiny base."""
    write_adapter(folder, tiny_model(), ("q_proj",), seed=seed, **settings)  # type: ignore[arg-type]
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_adapter_of_the_hub_joins_a_zoo(zoo: Zoo, hub: Hub, tmp_path: Path) -> None:  # noqa: F811
    hub.repos["who/boolq-lora"] = adapter(tmp_path / "a", 9) | {"pytorch_model.bin": b"pickle"}
    done = call("zoo", "add", zoo.root, "who/boolq-lora", "--task", "boolq", "--revision", "v1")
    assert done.exit_code == 0, done.output
    assert "4 experts (boolq, mnli, squad, sst2)" in done.stdout
    found = Zoo.open(zoo.root)
    assert {entry.name: entry.tasks for entry in found.manifest.experts}["boolq"] == ("boolq",)
    assert found.manifest.artefacts == zoo.manifest.artefacts != ()
    folder = zoo.root / "experts" / "boolq"
    assert json.loads((folder / "source.json").read_text())["commit"] == hub.commit("who/boolq-lora")
    assert not (folder / "pytorch_model.bin").exists()
    assert "has an expert 'boolq'" in refusal("zoo", "add", zoo.root, "who/boolq-lora", "--task", "boolq")


def test_a_first_adapter_makes_a_zoo_on_the_base_that_it_names(zoo: Zoo, tmp_path: Path) -> None:
    adapter(tmp_path / "a", 9, base_model_name_or_path=str(zoo.root / "base"))
    done = call("zoo", "add", tmp_path / "new", tmp_path / "a", "--task", "boolq/rte", "--name", "both")
    assert done.exit_code == 0, done.output
    assert "1 expert (both)\n" in done.output
    (entry,) = Zoo.open(tmp_path / "new").manifest.experts
    assert (entry.name, entry.tasks) == ("both", ("boolq", "rte"))


def test_an_adapter_of_another_base_leaves_the_zoo_as_it_was(zoo: Zoo, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in zoo.root.rglob("*") if path.is_file()}
    write_adapter(tmp_path / "a", tiny_model("llama", layers=5), ("q_proj",))
    assert "which the base model does not have" in refusal(
        "zoo", "add", zoo.root, tmp_path / "a", "--task", "boolq"
    )
    adapter(tmp_path / "dora", 1, use_dora=True)
    assert "use_dora=True" in refusal("zoo", "add", zoo.root, tmp_path / "dora", "--task", "boolq")
    assert before == {path: path.read_bytes() for path in zoo.root.rglob("*") if path.is_file()}
    assert "cannot be the name of an expert" in refusal(
        "zoo", "add", zoo.root, tmp_path / "a", "--task", "a", "--name", "../x"
    )
