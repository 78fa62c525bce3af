"""The commands of the README run as they are printed.

A fenced block whose info string is `bash run` runs in `make test`, `bash run slow` in `make test-slow`;
`bash` alone only shows. Blocks run in the order of the file, all in one empty folder, with this
environment's programs first.
"""

import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(r"^```bash run(?P<slow> slow)?\n(?P<commands>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks():
    """One test per marked block, named by the line that it starts in."""
    text = README.read_text()
    for block in BLOCK.finditer(text):
        marks = [pytest.mark.slow] if block["slow"] else []
        line = text.count("\n", 0, block.start()) + 1
        yield pytest.param(block["commands"], id=f"line {line}", marks=marks)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("readme")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("commands", list(blocks()))
def test_block_runs(commands, folder):
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, f"{commands}\nended with {ran.returncode}:\n{ran.stdout}\n{ran.stderr}"


def test_the_readme_has_commands_that_run():
    assert BLOCK.search(README.read_text())
