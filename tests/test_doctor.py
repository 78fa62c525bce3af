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
    (tmp_path / "cache").write_text("a file")
    found = {finding.what: finding for finding in doctor.disk()}
    assert found["lorafuse's cache"].state == "bad" and "cannot write" in found["lorafuse's cache"].found
    assert found["lorafuse's cache"].advice == "Set LORAFUSE_CACHE to another folder."


def test_a_folder_that_was_removed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    found = {finding.what: finding for finding in doctor.disk()}
    assert (found["this folder"].state, found["this folder"].advice) == ("bad", "Work elsewhere.")


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("OMP_NUM_THREADS", "many", "'many' is no number of threads"),
        ("MKL_NUM_THREADS", "0", "'0' is no number of threads"),
        ("LORAFUSE_DATA", "/nowhere", "data source '/nowhere' is not a directory"),
        ("LORAFUSE_TASKS", "/nowhere", "nothing is at /nowhere"),
        ("LORAFUSE_CACHE", "x" * 300, "File name too long"),
    ],
)
def test_an_odd_variable_is_told_and_all_else_too(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(doctor, "LEAST_GB", 0.0)
    found = doctor.examine()
    assert any(told in finding.found + finding.advice for finding in found if finding.state != "good")
    assert {"python", "threads", "zoo mini", "this folder", "hub"} <= {finding.what for finding in found}


def test_more_threads_than_cores_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 10_000)
    (finding,) = doctor.threads()
    assert finding.state == "look" and "OMP_NUM_THREADS" in finding.advice


def test_what_breaks_while_it_is_looked_at_is_told_and_the_rest_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "version", lambda name: None if name == "numpy" else "broken")
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of it fails
    found = {finding.what: finding for finding in doctor.examine()}
    assert found["numpy"].state == "bad" and "--force-reinstall" in found["numpy"].advice
    assert found["transformers"].found == "installed in part"
    assert found["gpu"].state == "bad" and "torch" in found["gpu"].found
    assert found["zoo mini"].state == "good"


def test_every_requirement_is_looked_at() -> None:
    needed = [text for text in importlib.metadata.requires("lorafuse-bench") or () if "extra ==" not in text]
    assert len(list(doctor.versions())) == 1 + len(needed)
