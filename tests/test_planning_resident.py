"""`lorafuse plan` against the memory that a fresh process is seen to take, its own without a model left out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lorafuse_bench.bench.models import Shape, random_zoo
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion import registry
from lorafuse_bench.planning import Work, memory_of
from lorafuse_bench.zoo.manifest import Zoo

SHAPE = Shape(hidden_size=512, layers=8, vocabulary=16384, rank=16)
EXPERTS, ROWS, PROMPT, ANSWER = 12, 4, 248, 8

EVALUATED = f"""
import sys
import torch
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion import registry
from lorafuse_bench.loading import load_model
from lorafuse_bench.memory import peak_bytes, reset_peak
from lorafuse_bench.scoring import Scored, Scorer
from lorafuse_bench.zoo.manifest import Zoo

CPU = torch.device("cpu")

def scored(zoo, spec, rows, prompt):
    method = registry.parse(spec)
    pool = ExpertPool.from_zoo(zoo, dtype=torch.float32) if method.fuses_experts else ExpertPool([])
    fused = FusedModel(load_model(zoo.find_base(), torch.float32), zoo, pool)
    fused.use(method)
    requests = [Scored(tuple(range(i, i + prompt)), tuple(range({ANSWER})), "e000") for i in range(rows)]
    Scorer(fused, rows, share=False).score(requests)

scored(Zoo.open(sys.argv[1]), sys.argv[3], 1, 2)  # what is imported and made once
reset_peak(CPU)
before = peak_bytes(CPU)
scored(Zoo.open(sys.argv[2]), sys.argv[3], {ROWS}, {PROMPT})
print(peak_bytes(CPU) - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux's /proc")
@pytest.mark.parametrize("spec", ["base", "arrow", "ensemble"])
def test_a_plan_is_within_15_per_cent_of_resident_memory(zoos: tuple[Zoo, Zoo], spec: str) -> None:
    small, large = zoos
    asked = [sys.executable, "-c", EVALUATED, str(small.root), str(large.root), spec]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    measured = int(done.stdout.split()[-1])
    method = registry.parse(spec)
    pool = ExpertPool.from_zoo(large)
    work = Work(ROWS, PROMPT + ANSWER - 1, ANSWER, cache=False)
    planned = memory_of(large.find_base(), method, pool, work, torch.float32)
    assert planned.total == pytest.approx(measured, rel=0.15)


@pytest.fixture(scope="module")
def zoos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Zoo, Zoo]:
    folder = tmp_path_factory.mktemp("resident")
    tiny = Shape(hidden_size=64, layers=1, vocabulary=512, rank=2)
    return random_zoo(folder / "small", tiny, 2)[0], random_zoo(folder / "large", SHAPE, EXPERTS)[0]
