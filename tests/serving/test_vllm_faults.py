"""What goes wrong with a real engine ends in one line that says what to do, and nothing finished is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from lm_eval.api.instance import Instance
from tiny import tiny_zoo

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.memory import processes
from lorafuse_bench.model_wrappers.vllm import LorafuseVLLM
from lorafuse_bench.serving import RANKS

pytestmark = pytest.mark.vllm


def generation(i: int) -> Instance:
    settings = {"until": ["<never>"], "max_gen_toks": 200, "do_sample": False}
    return Instance("generate_until", {}, (f"{i}: write", settings), idx=0, metadata=("lorafuse_sst2", i, 1))


def test_too_small_a_cache_says_how_to_make_it_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    lm = LorafuseVLLM("base", device="cpu", data="mini", dtype="float32", kv_cache_memory_bytes=100_000)
    with pytest.raises(
        LorafuseError, match=r"did not start: .*cache.*kv_cache_memory_bytes=.*VLLM_CPU_KVCACHE_SPACE"
    ) as error:
        lm.generate_until([generation(0)], disable_tqdm=True)  # the engine starts at the first request
    assert "\n" not in str(error.value)


def test_a_model_that_vllm_cannot_adapt_is_refused_in_one_line(tmp_path: Path) -> None:
    zoo = tiny_zoo(tmp_path, "gpt2")
    with pytest.raises(LorafuseError, match="--model lorafuse") as error:
        LorafuseVLLM("oracle", zoo=zoo.root, device="cpu", data="mini", dtype="float32")
    assert "\n" not in str(error.value)


def test_the_ranks_are_vllms_own() -> None:
    from typing import get_args

    from vllm.config.lora import MaxLoRARanks

    assert get_args(MaxLoRARanks) == RANKS


def test_answers_outlive_a_killed_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    requests = [generation(i) for i in range(300)]
    lm = LorafuseVLLM("oracle", device="cpu", data="mini", max_num_seqs=8)
    before = set(tmp_path.iterdir())

    def kill() -> None:
        while len(lm._kept) < 20:
            time.sleep(0.05)
        for process in processes()[1:]:
            os.kill(process, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(LorafuseError, match=r"engine died after \d+ of 300 .* answers are kept in") as error:
        lm.generate_until(requests, disable_tqdm=True)
    killer.join()
    lm.close()
    assert "\n" not in str(error.value)
    (rescued,) = set(tmp_path.iterdir()) - before
    assert len(rescued.read_text().splitlines()) >= 20


def test_the_command_ends_with_code_2_when_its_engine_is_killed_and_goes_on_afterwards(
    tmp_path: Path,
) -> None:
    kept = tmp_path / "kept.jsonl"
    command = [
        *(sys.executable, "-m", "lm_eval", "--model", "lorafuse-vllm"),
        *("--model_args", f"method=oracle,keep={kept},max_num_seqs=4", "--tasks", "lorafuse_squad"),
    ]
    running = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 400
    while not kept.exists() or len(kept.read_text().splitlines()) < 5:
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for process in processes(running.pid)[1:]:
        os.kill(process, signal.SIGKILL)
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 2
    assert errors.strip().splitlines()[-1].startswith("lorafuse: vLLM's engine died after")
    first = len(kept.read_text().splitlines())
    again = subprocess.run([*command, "--limit", "8"], cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "|lorafuse_squad|" in again.stdout
    assert first <= len(kept.read_text().splitlines()) <= first + 8
