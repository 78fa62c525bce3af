"""`lorafuse doctor`: each thing that may be amiss is told with its remedy."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path

import pytest
from tiny import tiny_zoo
from typer.testing import CliRunner

from lorafuse_bench import cli, doctor, plugin

TOKEN = "hf_secretsecret"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")


def test_the_command_tells_all_as_a_table_or_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    shown = CliRunner().invoke(cli.app, ["doctor"])
    told = json.loads(CliRunner().invoke(cli.app, ["doctor", "--json"]).stdout)
    names = {finding["what"] for finding in told}
    assert shown.exit_code == 0
    assert {"python", "torch", "lm_eval plugin", "zoo mini", "threads", "hub cache", "hub"} <= names
    assert all(name in shown.output for name in names)
    assert TOKEN not in shown.output + json.dumps(told)
    assert all(finding["advice"] for finding in told if finding["state"] != "good")


def test_a_package_that_is_missing_or_too_old_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ["numpy>=999", "no-such-package>=1", "vllm>=1; extra == 'vllm'"]
    monkeypatch.setattr(doctor, "requires", lambda name: needs)
    python, old, absent = doctor.versions()
    assert python.state == "good"
    assert (old.state, old.advice) == ("bad", "pip install 'numpy>=999'")
    assert (absent.state, absent.found) == ("bad", "not installed")


def test_what_is_to_mend_is_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    for state, code in (("good", 0), ("look", 0), ("bad", 1)):
        monkeypatch.setattr(doctor, "CHECKS", (lambda s=state: iter([doctor.Finding("x", s, "y", "z")]),))
        assert CliRunner().invoke(cli.app, ["doctor", "--json"]).exit_code == code


def test_a_plugin_that_is_off_or_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "meta_path", [f for f in sys.meta_path if not isinstance(f, plugin._AfterImport)]
    )
    (finding,) = doctor.harness()
    assert finding.state == "bad" and "python -m lorafuse_bench" in finding.advice
    monkeypatch.setenv(plugin.OPT_OUT, "1")
    (finding,) = doctor.harness()
    assert (finding.state, finding.found) == ("look", "LORAFUSE_NO_PLUGIN is set")


def test_a_zoo_whose_files_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = tiny_zoo(tmp_path / "zoo")
    (zoo.root / "experts" / "mnli" / "adapter_model.safetensors").unlink()
    monkeypatch.setattr(doctor, "installed_zoos", lambda: [str(zoo.root)])
    (finding,) = doctor.zoos()
    assert finding.state == "bad" and "expert 'mnli'" in finding.advice and "\n" not in finding.advice


def test_a_full_disk_and_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAFUSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(doctor, "LEAST_GB", 1e9)
    found = {finding.what: finding for finding in doctor.disk()}
    assert found["lorafuse's cache"].advice == "Free some space. Set LORAFUSE_CACHE to another folder."
    monkeypatch.setattr(doctor.os, "access", lambda path, how: False)
    assert {finding.state for finding in doctor.disk()} == {"bad"}


def test_every_requirement_is_looked_at() -> None:
    needed = [text for text in importlib.metadata.requires("lorafuse-bench") or () if "extra ==" not in text]
    assert len(list(doctor.versions())) == 1 + len(needed)
