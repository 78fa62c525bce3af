"""Zoos that packages bring through the entry-point group `lorafuse.zoos`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tiny import tiny_zoo
from typer.testing import CliRunner

from lorafuse_bench.cli import app
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.zoo import installed
from lorafuse_bench.zoo.manifest import Zoo
from lorafuse_bench.zoo.move import copy_zoo


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed distributions, importable as one."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(tmp_path)
    yield folder
    for name in {path.stem for path in folder.iterdir()} & set(sys.modules):
        del sys.modules[name]


def distribution(site: Path, package: str, entries: dict[str, str], group: str = "lorafuse.zoos") -> None:
    """Metadata of an installed package with entry points."""
    info = site / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in entries.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]) + "\n")


def test_a_package_is_a_zoo_by_name(site: Path) -> None:
    tiny_zoo(site / "tinyzoo")
    (site / "tinyzoo" / "__init__.py").touch()
    distribution(site, "tinyzoo", {"tiny": "tinyzoo"})
    assert Zoo.open("tiny").root == site / "tinyzoo"
    others = {"smol"}  # what the machine that tests has installed
    assert [name for name in installed.installed_zoos() if name not in others] == ["mini", "tiny"]


def test_a_folder_without_code_is_a_zoo_too(site: Path) -> None:
    tiny_zoo(site / "barezoo")
    distribution(site, "barezoo", {"bare": "barezoo"})
    assert Zoo.open("bare").root == site / "barezoo"


def test_a_function_may_say_where_the_zoo_is(site: Path, tmp_path: Path) -> None:
    made = tiny_zoo(tmp_path / "kept")
    (site / "finder.py").write_text(f"def folder():\n    return {str(made.root)!r}\n")
    distribution(site, "finder", {"found": "finder:folder"})
    assert Zoo.open("found").root == made.root


def test_a_directory_goes_before_an_installed_zoo(site: Path, tmp_path: Path) -> None:
    tiny_zoo(site / "tinyzoo")
    distribution(site, "tinyzoo", {"tiny": "tinyzoo"})
    tiny_zoo(tmp_path / "tiny")
    assert Zoo.open("tiny").root == Path("tiny")


def test_a_folder_to_write_to_may_have_an_installed_zoos_name(site: Path, tmp_path: Path) -> None:
    """It is read back before the installed one; the installed one itself, and the name `mini`, stay refused."""
    tiny_zoo(site / "tinyzoo")
    distribution(site, "tinyzoo", {"tiny": "tinyzoo"})
    assert installed.writable("tiny") == Path("tiny")
    copied = copy_zoo("tiny", Path("tiny"))
    assert Zoo.open("tiny").root == copied.root == Path("tiny")
    installed.writable("tiny")
    for taken in (site / "tinyzoo", site / "tinyzoo" / "new", "mini"):
        with pytest.raises(LorafuseError, match="belongs to an installed package and is read-only"):
            installed.writable(taken)


@pytest.mark.parametrize(
    "command",
    [
        ["train", "adapter", "--method", "lora", "--suite", "mtl5", "--out", "tiny"],
        ["train", "experts", "--suite", "mtl5", "--out", "tiny"],
        ["train", "router", "--out", "tiny"],
        ["fit", "merge_sgd", "--suite", "mtl5", "--zoo", "tiny"],
        ["zoo", "cluster", "tiny"],
        ["zoo", "rebase", "tiny", "--base", "mini"],
        ["zoo", "add", "tiny", "tinyzoo/experts/sst2", "--task", "rte"],
    ],
)
def test_nothing_is_added_to_an_installed_zoo(site: Path, tmp_path: Path, command: list[str]) -> None:
    tiny_zoo(site / "tinyzoo")
    distribution(site, "tinyzoo", {"tiny": "tinyzoo"})
    (tmp_path / "tinyzoo").symlink_to(site / "tinyzoo")
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2
    assert "lorafuse zoo copy tiny DIR" in " ".join(done.output.split())
    assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise RuntimeError('no luck')", "RuntimeError: no luck"),
        ("folder = 7", "AttributeError: 'int'"),
        ("", "AttributeError"),
    ],
)
def test_an_entry_point_that_fails_is_named(site: Path, source: str, said: str) -> None:
    (site / "broken_zoo.py").write_text(source + "\n")
    distribution(site, "broken", {"bad": "broken_zoo:folder"})
    with pytest.raises(LorafuseError, match=said) as caught:
        Zoo.open("bad")
    assert "entry point 'bad' (broken_zoo:folder)" in str(caught.value)


def test_two_packages_with_one_zoo_are_named(site: Path) -> None:
    for package in ("one", "two"):
        distribution(site, package, {"same": package})
    with pytest.raises(LorafuseError, match=r"(one and two|two and one)\. Uninstall one"):
        Zoo.open("same")
