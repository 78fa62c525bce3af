"""docs/reproduce.md runs as it is printed, with the values that the page itself gives for a quick look."""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "reproduce.md").read_text()
BLOCK = re.compile(r"^```bash (?P<kind>set|run)\n(?P<commands>.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.timeout(900)
def test_the_page_remakes_zoo_boards_and_findings(tmp_path: Path) -> None:
    blocks = [(block["kind"], block["commands"]) for block in BLOCK.finditer(PAGE)]
    _full, quick = (commands for kind, commands in blocks if kind == "set")
    commands = "".join(commands for kind, commands in blocks if kind == "run")
    for name in ("zoos", "lorafuse_bench"):
        (tmp_path / name).symlink_to(ROOT / name)
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", quick + commands],
        cwd=tmp_path,
        env=os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, f"ended with {ran.returncode}:\n{ran.stdout}\n{ran.stderr}"
    assert len(list((tmp_path / "smol/experts").iterdir())) == 14
    assert len(list((tmp_path / "results").rglob("*.items.json.gz"))) == 15  # five methods on three suites
    assert "With five tasks MoA scores like" in (tmp_path / "claims.md").read_text()
    assert (tmp_path / "site/claims.html").is_file()
    assert (tmp_path / "site/index.html").is_file()


def test_the_full_values_name_the_same_things() -> None:
    full, quick = (block["commands"] for block in BLOCK.finditer(PAGE) if block["kind"] == "set")
    assert re.findall(r"^(\w+)=", full, re.MULTILINE) == re.findall(r"^(\w+)=", quick, re.MULTILINE)
