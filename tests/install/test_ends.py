"""The light job at both ends of the declared ranges: which releases it installs, and that what it names is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CI = ROOT / ".ci"


def constraints(end: str) -> list[str]:
    ran = subprocess.run([sys.executable, CI / "ends.py", end], capture_output=True, text=True, check=True)
    return ran.stdout.splitlines()


@pytest.mark.parametrize(("end", "sign"), [("lowest", "=="), ("newest", ">=")])
def test_an_end_holds_the_three_to_what_is_declared(end: str, sign: str) -> None:
    declared = (ROOT / "pyproject.toml").read_text()
    *moved, torch = constraints(end)
    assert [re.split("[=>]", line)[0] for line in moved] == ["lm_eval", "transformers", "peft"]
    for line in moved:
        name, version = line.split(sign)
        assert re.search(rf'"{name}(\[.*\])?>={re.escape(version)}"', declared)
    assert torch in (ROOT / "constraints.txt").read_text().splitlines()


def test_another_end_is_refused_in_one_line() -> None:
    ran = subprocess.run([sys.executable, CI / "ends.py", "oldest"], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (1, "ends: say lowest or newest.\n")


def test_the_job_runs_both_ends_on_tests_that_are_there() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ends.yml").read_text())
    job = workflow["jobs"]["ends"]
    assert job["strategy"]["matrix"]["end"] == ["lowest", "newest"]
    assert job["steps"][-1]["run"] == "sh .ci/ends ${{ matrix.end }}"
    files = re.findall(r"tests/\S+\.py", (CI / "ends").read_text())
    assert files and all((ROOT / file).is_file() for file in files)
