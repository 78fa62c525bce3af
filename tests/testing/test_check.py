"""The checks as people run them: from Python, as tests, by pytest's option, by the command."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from unittest import SkipTest

import pytest
from broken import CATCHES, SOUND
from typer.testing import CliRunner

from lorafuse_bench import cli
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.base import Merge
from lorafuse_bench.testing import check_method, pytest_plugin
from lorafuse_bench.testing.run import CHECKS, Bound, cases, resolve

MEAN = next(cls for cls in SOUND if issubclass(cls, Merge))

HALF = '''
from dataclasses import dataclass

from lorafuse_bench.fusion.base import Merged, Merge


@dataclass(frozen=True)
class Half(Merge):
    """Half of the first expert. Cost: one LoRA."""

    name = "half"
    paper = "none"

    def fuse(self, pool):
        return Merged({m: (s.A[0], s.B[0] / 2) for m, s in pool.modules.items()})


class Nameless(Merge):
    """No name."""
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module of somebody's methods, in which commands are given."""
    (tmp_path / "half_method.py").write_text(HALF)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry.METHODS, "_found", dict(registry.methods()))
    monkeypatch.delitem(sys.modules, "half_method", raising=False)
    return tmp_path


def test_verdicts_of_failures_expected_and_not() -> None:
    wrong = CATCHES["scale dropped"][0]()
    reason = {"alphas_and_rslora": "alpha is a label here"}
    verdicts = {verdict.check: verdict for verdict in check_method(wrong, reason)}
    assert verdicts.keys() == CHECKS.keys()
    assert verdicts["alphas_and_rslora"].status == "expected"
    assert verdicts["one_expert_is_itself"].status == "failed"
    assert "does not declare" in verdicts["one_expert_is_itself"].why
    assert verdicts["k_experts_are_mixed"].why == "it has no option k"


def test_an_expected_failure_must_come_about() -> None:
    sound = MEAN()
    verdict = CHECKS["gauge"].verdict(sound, "it is merge-before")
    assert verdict.status == "failed"
    assert verdict.why == "it was expected to fail (it is merge-before), and passed"
    assert (
        CHECKS["padding_is_not_routed"].verdict(sound, "why").status == "failed"
    )  # does not apply: no failure


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"guage": "why"}, "unknown check 'guage'. Did you mean 'gauge'"),
        ({"gauge": " "}, "no reason is given"),
    ],
)
def test_expectations_name_checks_and_reasons(expected: dict[str, str], message: str) -> None:
    with pytest.raises(LorafuseError, match=message):
        cases([MEAN()], expected)


def test_a_check_as_a_test_passes_skips_fails_or_is_expected_to() -> None:
    wrong = CATCHES["scale dropped"][0]()
    Bound(CHECKS["gauge"])(wrong)
    with pytest.raises(SkipTest, match="no option seed"):
        Bound(CHECKS["seed_makes_a_difference"])(wrong)
    with pytest.raises(AssertionError, match="alphas_and_rslora: it differs by"):
        Bound(CHECKS["alphas_and_rslora"])(wrong)
    with pytest.raises(pytest.xfail.Exception, match="a label"):
        Bound(CHECKS["alphas_and_rslora"], "a label")(wrong)


def test_a_method_is_named_by_its_name_or_its_class(here: Path) -> None:
    assert resolve("svd:rank=2").label() == "svd:rank=2"
    assert resolve("half_method:Half").label() == "half"
    assert resolve("lorafuse_bench.fusion.merging.svd:SvdMerge:rank=3").label() == "svd:rank=3"
    for spec, message in (
        ("half_method:Haf", "unknown class 'Haf' of half_method. Did you mean 'Half'"),
        ("half_methode:Half", "half_methode cannot be imported: ModuleNotFoundError"),
        ("half_method:Nameless", "half_method.Nameless has no name"),
        ("half_method:Half:rank=2", "unknown option 'rank' of method 'half'"),
        ("half_method:dataclass", "dataclass is no FusionMethod"),
    ):
        with pytest.raises(LorafuseError, match=message):
            resolve(spec)


def test_the_command_prints_verdicts_and_fails(here: Path) -> None:
    run = CliRunner().invoke(cli.app, ["check", "half_method:Half", "--json"])
    assert run.exit_code == 1
    made = json.loads(run.stdout)
    failed = {verdict["check"] for verdict in made["checks"] if verdict["status"] == "failed"}
    assert made["method"] == "half" and made["failed"] == len(failed)
    assert {"one_expert_is_itself", "copies_of_one_expert_are_it", "order_of_the_experts"} <= failed
    assert all(verdict["why"] for verdict in made["checks"] if verdict["status"] != "passed")


def test_pytest_runs_the_checks_without_a_test_file(here: Path) -> None:
    installed = any(entry.value == pytest_plugin.__name__ for entry in entry_points(group="pytest11"))
    own = [] if installed else [pytest_plugin]
    (here / "pytest.ini").write_text("[pytest]\n")
    chosen = ["-k", "gauge or order_of_the_experts or seed_makes"]
    quiet = ["-q", "-c", str(here / "pytest.ini"), "-p", "no:cacheprovider", "-p", "no:xdist", *chosen]
    assert (
        pytest.main(["--lorafuse-method", "half_method:Half", *quiet], plugins=own)
        == pytest.ExitCode.TESTS_FAILED
    )
    assert pytest.main(["--lorafuse-method", "svd", *quiet], plugins=own) == pytest.ExitCode.OK
    unknown = pytest.main(["--lorafuse-method", "half_method:Haf", *quiet], plugins=own)
    assert unknown in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.INTERRUPTED)


def test_pytest_compares_scores_with_a_baseline_and_makes_none_of_a_dirty_tree(tmp_path: Path) -> None:
    boards = Path(__file__).parents[2] / "leaderboards"
    results = boards / "published" / "mini-mtl7" / "results" / "mtl7" / "mini-0"
    installed = any(entry.value == pytest_plugin.__name__ for entry in entry_points(group="pytest11"))
    own = [] if installed else [pytest_plugin]
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    quiet = [
        "-q",
        "-c",
        str(tmp_path / "pytest.ini"),
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-k",
        "scores",
    ]
    command = ["--lorafuse-method", "svd", "--lorafuse-results", str(results), *quiet]
    assert pytest.main(command, plugins=own) == pytest.ExitCode.USAGE_ERROR
    baseline = ["--lorafuse-baseline", str(boards / "baselines" / "mini-mtl7.json")]
    assert pytest.main([*command, *baseline], plugins=own) == pytest.ExitCode.OK
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    made = ["--lorafuse-baseline", str(tmp_path / "new.json"), "--lorafuse-update-baseline"]
    assert pytest.main([*command, *made], plugins=own) == pytest.ExitCode.USAGE_ERROR
    assert not (tmp_path / "new.json").exists()


def test_the_plugin_imports_nothing_until_asked() -> None:
    code = (
        "import sys, lorafuse_bench.testing, lorafuse_bench.testing.pytest_plugin;"
        " sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'transformers')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
