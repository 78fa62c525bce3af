"""Code that a model wrote: consent first, then a process of its own."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lm_eval
import pytest
from real_samples import shared_data
from typer.testing import CliRunner

from lorafuse_bench import plugin, runner
from lorafuse_bench.cli import app
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion import registry
from lorafuse_bench.mini_world.on_demand import generated
from lorafuse_bench.model_wrappers.hf import LorafuseLM
from lorafuse_bench.tasks import consent
from lorafuse_bench.tasks.metrics.code import passes, score_completion, score_program
from lorafuse_bench.tasks.rows import load_task


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")


@pytest.fixture
def unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No consent by the variable, and nothing may be loaded."""
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)

    def load(*_: object, **__: object) -> None:
        raise AssertionError("loaded before consent was given")

    monkeypatch.setattr(LorafuseLM, "__init__", load)
    monkeypatch.setattr("lorafuse_bench.tasks.data.load", load)


@pytest.mark.parametrize(
    ("tasks", "asked"),
    [
        (["or_mtl"], "humaneval, mbpp"),
        (["lorafuse_mbpp", "lorafuse_mmlu"], "mbpp"),
        ([SimpleNamespace(task_name="lorafuse_humaneval")], "humaneval"),
        (["or_mtl_no_code", "mtl7", "lorafuse_gsm8k_cot", "humaneval", "mbpp", {"task": "x"}], None),
    ],
)
def test_who_is_asked(tasks: list[Any], asked: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
    if asked is None:
        consent.ask(tasks, confirmed=False)
        return
    with pytest.raises(
        LorafuseError, match=f"^{asked}: code .* give --confirm_run_unsafe_code and set HF_ALLOW_C"
    ):
        consent.ask(tasks, confirmed=False)
    with pytest.raises(
        LorafuseError, match="give HF_ALLOW_CODE_EVAL=1; for the rest of or_mtl, ask for or_mtl_no_c"
    ):
        consent.ask(tasks, confirmed=True)
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")
    with pytest.raises(LorafuseError, match="give --confirm_run_unsafe_code; for the rest"):
        consent.ask(tasks, confirmed=False)
    consent.ask(tasks, confirmed=True)


def test_run_asks_before_anything_is_loaded(unasked: None, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["run", "--methods=base", "--suites=mtl5, or_mtl", f"--out={out}"])
    assert done.exit_code == 2
    assert "--confirm_run_unsafe_code and set HF_ALLOW_CODE_EVAL=1" in done.output
    assert len(done.output.strip().splitlines()) == 1
    assert not out.exists()
    plan = runner.Plan([registry.create("base")], ["or_mtl"], tmp_path)
    with pytest.raises(LorafuseError, match="HF_ALLOW_CODE_EVAL"):
        runner.run(plan)


def test_a_study_asks_before_it_trains(unasked: None, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = ["analyze", "conflict", str(out), "--base=mini", "--suite=piqa/boolq", "--oblivion=mmlu/mbpp"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 2
    assert "mbpp: code that the model writes would run" in done.output
    assert not out.exists()


def test_lm_eval_asks_before_anything_is_loaded(unasked: None) -> None:
    plugin.register()
    from lm_eval import evaluator

    with pytest.raises(LorafuseError, match="humaneval, mbpp: code that the model writes would run"):
        evaluator.simple_evaluate(model="lorafuse", model_args="method=base", tasks=["or_mtl"])


def test_asking_twice_asks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(consent, "ask", lambda tasks, confirmed: asked.append(confirmed))
    module = SimpleNamespace(simple_evaluate=lambda model, tasks=None, confirm_run_unsafe_code=False: "done")
    plugin.ask_first(module)  # type: ignore[arg-type]
    plugin.ask_first(module)  # type: ignore[arg-type]
    assert module.simple_evaluate("m", ["t"], confirm_run_unsafe_code=True) == "done"
    assert asked == [True]


def test_lm_evals_own_check_stays() -> None:
    assert load_task("lorafuse_mbpp", "mini").UNSAFE_CODE
    assert load_task("lorafuse_humaneval", "mini").UNSAFE_CODE
    assert not hasattr(load_task("lorafuse_gpqa", "mini"), "UNSAFE_CODE")


def test_nothing_runs_without_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "0")
    with pytest.raises(LorafuseError, match="HF_ALLOW_CODE_EVAL=1"):
        passes(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("program", "passed"),
    [
        ("assert 1 + 1 == 2", True),
        ("import math\nassert math.gcd(4, 6) == 2\nprint('é' * 100_000)", True),
        ("if __name__ == '__main__':\n    raise ValueError", True),
        ("assert 1 + 1 == 3", False),
        ("def broken(:", False),
        ("raise SystemExit", False),
        ("import os\nos._exit(0)", False),
        ("x = bytearray(8 << 30)", False),
        ("'\udc80'\n1 / 0", False),
        ("", True),
    ],
)
def test_a_program_passes_when_it_runs_to_its_end(program: str, passed: bool, allowed: None) -> None:
    assert passes(program, seconds=60) is passed


def test_time_is_limited_and_what_a_program_started_ends_with_it(allowed: None, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    start = time.monotonic()
    assert not passes(
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(note)!r}, 'w').write(str(child.pid))\n"
        "while True: pass",
        seconds=5,
    )
    assert time.monotonic() - start < 60
    child = int(note.read_text())
    for _ in range(100):
        if not _runs(child):
            break
        time.sleep(0.1)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    """Whether a process is there and not merely waiting to be noted as ended."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_program_sees_neither_our_folder_nor_our_environment(
    allowed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    here = os.getcwd()
    assert passes(
        f"import os\nassert 'HF_TOKEN' not in os.environ\nassert os.getcwd() != {here!r}", seconds=60
    )


def test_pass_at_1_of_generated_problems(allowed: None) -> None:
    (doc,) = generated("openai__openai_humaneval/openai_humaneval", "test", 0).select([0])
    assert score_completion(doc, [doc["canonical_solution"]]) == {"pass@1": 1.0}
    assert score_completion(doc, ["    return None\n"]) == {"pass@1": 0.0}
    (doc,) = generated("google-research-datasets__mbpp/full", "test", 0).select([0])
    assert score_program(doc, [doc["code"]]) == {"pass@1": 1.0}
    assert score_program(doc, [doc["code"].replace("return", "return 1 +")]) == {"pass@1": 0.0}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_real_reference_solutions_pass(allowed: None) -> None:
    problems = load_task("lorafuse_humaneval", str(shared_data())).eval_docs
    assert all(score_completion(doc, [doc["canonical_solution"]])["pass@1"] for doc in problems)
    problems = load_task("lorafuse_mbpp", str(shared_data())).eval_docs
    failed = [doc["task_id"] for doc in problems if not score_program(doc, [doc["code"]])["pass@1"]]
    assert failed == [367]  # its tests need the row's setup code, which lm-eval leaves out


def test_lm_eval_is_wrapped_wherever_it_is_imported_from() -> None:
    plugin.register()
    assert hasattr(lm_eval.evaluator.simple_evaluate, "asks_lorafuse")
