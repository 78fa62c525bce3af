"""What `lorafuse run` does before the model is first asked: nothing that only scores or other commands need."""

from __future__ import annotations

import subprocess
import sys

import jinja2
import lm_eval.utils
import pytest

from lorafuse_bench.tasks.loading import load_tasks
from lorafuse_bench.tasks.suites import suite
from lorafuse_bench.zoo.manifest import Zoo

LATER = {"evaluate", "matplotlib", "nltk", "peft", "ray", "rouge_score", "scipy.stats", "torchvision", "vllm"}
LATER |= {"gguf", "langdetect", "lxml.html", "sklearn", "torch.utils.tensorboard"}
LATER |= {f"lorafuse_bench.{name}" for name in ("analysis", "bench", "testing")}
STOPPED = f"""
import sys
from lorafuse_bench.model_wrappers.hf import LorafuseLM

def stop(*given):
    print(sorted({LATER} & sys.modules.keys()))
    sys.exit()

LorafuseLM.generate_until = stop
from lorafuse_bench.cli import main
main()
"""


def test_nothing_is_imported_early(zoo: Zoo) -> None:
    words = ["run", "--zoo", str(zoo.root), "--methods", "base,svd", "--suites", "mtl5", "--limit", "1"]
    command = [sys.executable, "-c", STOPPED, *words, "--out", str(zoo.root / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_the_process_ends_without_a_last_look_for_garbage() -> None:
    """Which takes a second where torch, transformers and lm-eval are imported. What is registered first runs last."""
    code = (
        "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count() > 0));"
        "from lorafuse_bench.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "True", done.stderr


def test_a_prompts_template_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lm_eval.utils.env.from_string.cache_clear()  # of other tests
    compiled: list[str] = []
    original = jinja2.Environment.compile
    monkeypatch.setattr(
        jinja2.Environment,
        "compile",
        lambda self, source, *given, **named: (
            compiled.append(source) or original(self, source, *given, **named)
        ),
    )
    task = load_tasks(suite("sst2"), "mini")["lorafuse_sst2"]
    assert len({task.doc_to_text(doc) for doc in task.eval_docs.select(range(5))}) == 5
    assert len(compiled) == len(set(compiled)) > 0
