"""The template of a results repository: its commands on published boards, and on one that was altered."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "leaderboards" / "template"
PUBLISHED = ROOT / "leaderboards" / "published"


def steps() -> list[str]:
    """What the workflow runs on a submission, once the benchmark is installed."""
    workflow = yaml.safe_load((TEMPLATE / ".github/workflows/boards.yml").read_text())
    return [
        step["run"]
        for step in workflow["jobs"]["verify"]["steps"]
        if "lorafuse leaderboard" in step.get("run", "")
    ]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository made of the template, with two of the published boards."""
    shutil.copytree(TEMPLATE, tmp_path / "repository")
    for name in ("smol-mtl5", "real-mtl7"):
        shutil.copytree(PUBLISHED / name, tmp_path / "repository" / "boards" / name)
    return tmp_path / "repository"


def run(repository: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(steps())],
        cwd=repository,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
    )


def test_the_workflow_verifies_boards_and_builds_the_site(repository: Path) -> None:
    ran = run(repository)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 leaderboards: nothing wrong" in ran.stdout
    assert "mtl5 on smol" in (repository / "site/methods/moa.html").read_text()
    assert (repository / "site/boards/real-mtl7/index.html").is_file()


def test_an_altered_board_fails_the_workflow_before_the_site(repository: Path) -> None:
    board = repository / "boards/smol-mtl5/leaderboard.json"
    content = board.read_text()
    board.write_text(re.sub(r'"caption": "', '"caption": "The best of all. ', content, count=1))
    ran = run(repository)
    assert ran.returncode == 2
    assert "boards/smol-mtl5/leaderboard.json" in ran.stderr and "its results make" in ran.stderr
    assert not (repository / "site").exists()


def test_the_page_tells_the_commands_that_the_workflow_runs() -> None:
    (told,) = re.findall(
        r"^```bash run\n(.*?)^```$", (TEMPLATE / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert told.splitlines() == steps()
