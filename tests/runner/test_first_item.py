"""What `lorafuse run` has imported when the model is first asked: nothing that only scores or other commands need."""

from __future__ import annotations

import subprocess
import sys

from lorafuse_bench.zoo.manifest import Zoo

LATER = {"evaluate", "matplotlib", "nltk", "peft", "ray", "rouge_score", "scipy.stats", "torchvision", "vllm"}
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
