"""docs/extending/method.md, block by block; and the package that `lorafuse new-method` writes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from broken import CATCHES
from typer.testing import CliRunner

from lorafuse_bench.cli import app
from lorafuse_bench.fusion import registry
from lorafuse_bench.testing.run import CHECKS, cases, resolve

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending" / "method.md").read_text()
BLOCKS = re.findall(r"```(sh|python file=(\S+))\n(.*?)```", PAGE, re.S)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's package as `lorafuse new-method` writes it, importable."""
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["new-method", "loudest"]).exit_code == 0
    monkeypatch.syspath_prepend(str(tmp_path / "lorafuse-loudest"))
    monkeypatch.setattr(registry.METHODS, "_found", dict(registry.methods()))
    for name in ("lorafuse_loudest", "lorafuse_loudest.method"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path / "lorafuse-loudest"


def test_the_package_as_written_passes_its_own_test(package: Path) -> None:
    test = (package / "tests" / "test_loudest.py").read_text()
    made = resolve("lorafuse_loudest.method:Loudest")
    assert "parametrize_with_checks([Loudest()])" in test
    for case in cases([made]):
        method, check = case.values
        assert check.check.verdict(method).status != "failed"
    space: dict[str, object] = {}
    exec(test, space)
    space["test_the_formula"]()  # type: ignore[operator]
    text = "".join(file.read_text() for file in package.rglob("*") if file.is_file())
    assert "$" not in text.replace("$ ", "") and '[project.entry-points."lorafuse.methods"]' in text


def test_the_pages_method_passes_and_its_half_fails_as_expected(package: Path) -> None:
    for _, file, text in BLOCKS:
        if file:
            (package.parent / file).write_text(text)
    space: dict[str, object] = {}
    exec((package / "tests" / "test_loudest.py").read_text(), space)
    for name in ("test_method", "test_half"):
        (mark,) = space[name].pytestmark  # type: ignore[attr-defined]
        for case in mark.args[1]:
            method, check = case.values
            verdict = check.check.verdict(method, check.expected)
            assert verdict.status != "failed", f"{verdict.check}: {verdict.why}"


@pytest.mark.parametrize(
    ("name", "message"),
    [("My-Method", "cannot be called 'My-Method'"), ("svd", "there is a method 'svd' already")],
)
def test_names_that_cannot_be_taken(tmp_path: Path, name: str, message: str) -> None:
    done = CliRunner().invoke(app, ["new-method", name, "--out", str(tmp_path / "new")])
    assert done.exit_code == 2 and message in done.stderr
    assert not (tmp_path / "new").exists()


def test_the_table_of_mistakes_is_true() -> None:
    rows = re.findall(r"^\| (.+) \| `(\w+)` \|$", PAGE, re.M)
    assert rows == [(what, check) for what, (_, check) in CATCHES.items()]
    assert len(rows) >= 40 and {check for _, check in rows} <= CHECKS.keys()


@pytest.mark.slow
@pytest.mark.timeout(900)  # the page promises a quarter of an hour
def test_the_page_in_a_new_environment_with_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every block, with the built wheel; pip is kept off the network."""
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "install"))
    from test_install import build, new_environment

    wheel = build(ROOT, tmp_path / "wheel", "-t", "wheel")
    new_environment(tmp_path / "venv")
    programs = tmp_path / "venv" / "bin"
    pip = f"{sys.executable} -m pip --python {programs / 'python'} install --no-deps --no-index --no-build-isolation"
    (programs / "pytest").write_text(f'#!/bin/sh\nexec {programs / "python"} -m pytest "$@"\n')
    (programs / "pytest").chmod(0o755)
    (tmp_path / "here").mkdir()
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}

    def shell(line: str) -> None:
        done = subprocess.run(
            line, shell=True, cwd=tmp_path / "here", env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"

    shell(f"{pip} {wheel}")
    for kind, file, text in BLOCKS:
        if kind != "sh":
            (tmp_path / "here" / file).write_text(text)
            continue
        for line in text.splitlines():
            shell(line.replace("pip install -e", f"{pip} -e"))
    board = (tmp_path / "here" / "leaderboard.json").read_text()
    assert '"loudest"' in board
    shell("pytest -q --lorafuse-method lorafuse_loudest.method:Loudest -k gauge")
