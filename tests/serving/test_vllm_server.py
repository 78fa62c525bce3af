"""The commands of docs/serve.md: exported experts behind vLLM's OpenAI-compatible server, on loopback."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance

from lorafuse_bench.model_wrappers.hf import LorafuseLM

pytestmark = pytest.mark.vllm

DOCS = Path(__file__).parents[2] / "docs" / "serve.md"
PROMPTS = {
    "sst2": "Text:\nthe plot is a dull and tired thing\nSentiment:",
    "squad": "Context:\nAnn saw Bo near the harbour.\nQuestion:\nWhom did Ann see?\nAnswer:",
}


def commands() -> list[str]:
    """The block marked `bash serve`: it exports, then serves."""
    (block,) = re.findall(r"^```bash serve\n(.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    export, serve = block.strip().replace("\\\n", " ").split("\n")
    return [export, serve]


def ask(port: int, path: str, content: Any = None) -> Any:
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        text = response.read()
    return json.loads(text) if text else None


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("served")
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "VLLM_CPU_KVCACHE_SPACE": "1"}
    export, serve = commands()
    subprocess.run(["bash", "-c", export], cwd=folder, env=environment, check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    log = (folder / "log").open("w")
    server = subprocess.Popen(
        ["bash", "-c", f"exec {serve} --port {number}"],
        cwd=folder,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 600
        while True:
            assert server.poll() is None, (folder / "log").read_text()[-3000:]
            assert time.monotonic() < deadline, (folder / "log").read_text()[-3000:]
            try:
                ask(number, "/health")
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(1)
        yield number
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(120)


@pytest.mark.timeout(1200)
def test_two_adapters_answer_through_http_as_under_lorafuse(port: int) -> None:
    names = {model["id"] for model in ask(port, "/v1/models")["data"]}
    assert set(PROMPTS) <= names
    own = LorafuseLM("oracle", device="cpu", data="mini", dtype="float32")
    texts = []
    for task, prompt in PROMPTS.items():
        settings = {"until": ["\n"], "max_gen_toks": 12, "do_sample": False}
        request = Instance(
            "generate_until", {}, (prompt, settings), idx=0, metadata=(f"lorafuse_{task}", 0, 1)
        )
        (expected,) = own.generate_until([request], disable_tqdm=True)
        content = {"model": task, "prompt": prompt, "max_tokens": 12, "temperature": 0, "stop": ["\n"]}
        answer = ask(port, "/v1/completions", content)["choices"][0]["text"]
        assert answer == expected
        texts.append(answer)
    assert texts[0] != texts[1]
