"""Golden outputs: a formula that changes under the same version is seen, a new version is free to differ."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
from test_check import HALF
from test_shipped import SHIPPED, VARIANTS

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion import registry
from lorafuse_bench.testing.check import Verdict
from lorafuse_bench.testing.golden import freeze, outputs_are_those_of_its_version


def module(folder: Path, text: str) -> ModuleType:
    (folder / "golden_method.py").write_text(text)
    sys.modules.pop("golden_method", None)
    importlib.invalidate_caches()
    return importlib.import_module("golden_method")


def test_a_formula_changes_with_its_version_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    check = outputs_are_those_of_its_version
    first = module(tmp_path, HALF).Half()
    assert check.verdict(first).why == "no golden outputs of 'half' version 1: --freeze writes them"
    assert freeze(first) == tmp_path / "golden" / "half-v1.json" == freeze(first)
    assert check.verdict(first).status == "passed"
    other = module(tmp_path, HALF.replace("/ 2", "/ 2.001")).Half()
    assert "raise its version" in check.verdict(other).why
    with pytest.raises(LorafuseError, match="half-v1.json has other outputs of 'half'"):
        freeze(other)
    later = module(
        tmp_path, HALF.replace("/ 2", "/ 3").replace('paper = "none"', 'paper = "none"\n    version = "2"')
    )
    assert check.verdict(later.Half()).status == "skipped"
    assert freeze(later.Half()).name == "half-v2.json"
    assert check.verdict(later.Half()).status == "passed"


def test_what_has_no_golden_outputs_says_so() -> None:
    with pytest.raises(LorafuseError, match="'base' has no golden outputs: it fuses no experts"):
        freeze(registry.parse("base"))


@pytest.mark.parametrize("spec", [*SHIPPED, *VARIANTS])
def test_every_shipped_method_has_some(spec: str) -> None:
    method = registry.parse(spec)
    if method.fuses_experts and method.family != "ensembling":
        assert outputs_are_those_of_its_version.verdict(method) == Verdict(
            "outputs_are_those_of_its_version", "passed"
        )
