"""What `lorafuse export` writes scores the same in stock vLLM as in stock lm-eval and as the fused model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from agreement import instances
from lm_eval.models.huggingface import HFLM
from tiny import tiny_zoo

from lorafuse_bench.export import Exported, export_merge
from lorafuse_bench.fusion import registry
from lorafuse_bench.heads import VLLM_CPU_SIZES, fit
from lorafuse_bench.model_wrappers.hf import LorafuseLM
from lorafuse_bench.zoo.index import index_adapters
from lorafuse_bench.zoo.manifest import Zoo

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.filterwarnings("ignore:method '.*' combines factors"),
]

KINDS = {"concat": "adapter", "ties": "model"}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Random experts on a Llama whose heads are of a size that vLLM serves on CPUs."""
    folder = tmp_path_factory.mktemp("zoo")
    narrow = tiny_zoo(folder / "narrow", "llama", mixed=True)
    experts = [narrow.root / entry.path for entry in narrow.manifest.experts]
    base, _ = fit(narrow.base_folder(), experts, VLLM_CPU_SIZES, folder / "wide" / "experts")
    return index_adapters(folder / "wide", str(base.rename(folder / "wide" / "base")))


@pytest.fixture(scope="module", params=KINDS)
def exported(
    request: pytest.FixtureRequest, zoo: Zoo, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Exported]:
    out = tmp_path_factory.mktemp("out") / request.param
    return request.param, export_merge(registry.parse(request.param), zoo, out)


@pytest.fixture(scope="module")
def vllm_scores(exported: tuple[str, Exported]) -> Iterator[list[float]]:
    """Log-probabilities of the requests, by vLLM's own interface."""
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    written = exported[1]
    options: dict[str, Any] = {"model": str(written.path)}
    lora = None
    if written.kind == "adapter":
        # Without its modules' names the output layer gets an adapter too, and CPUs cannot score prompts (vLLM 0.32).
        targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
        options = {"model": written.base, "enable_lora": True, "max_lora_rank": 16}
        options["lora_target_modules"] = targets
        lora = LoRARequest("exported", 1, str(written.path))
    options |= {"dtype": "float32", "max_model_len": 256, "enforce_eager": True}
    llm = LLM(**options, gpu_memory_utilization=0.3, kv_cache_memory_bytes=2**28)
    tokenizer = llm.get_tokenizer()
    scores = []
    for context, continuation in (request.args for request in instances("loglikelihood")):
        prompt, whole = tokenizer.encode(context), tokenizer.encode(context + continuation)
        (output,) = llm.generate(
            {"prompt_token_ids": whole},
            SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0),
            lora_request=lora,
            use_tqdm=False,
        )
        given = list(zip(whole, output.prompt_logprobs, strict=True))[len(prompt) :]
        scores.append(sum(logprobs[token].logprob for token, logprobs in given))
    yield scores
    llm.llm_engine.engine_core.shutdown()


def test_exported_scores_are_the_same_in_vllm(
    exported: tuple[str, Exported], vllm_scores: list[float], zoo: Zoo
) -> None:
    spec, written = exported
    assert written.kind == KINDS[spec]
    alone = {"pretrained": str(written.path)}
    place = alone if written.kind == "model" else {"pretrained": written.base, "peft": str(written.path)}
    stock = HFLM(**place, batch_size=3, device="cpu", dtype="float32")
    fused = LorafuseLM(spec, zoo=zoo.root, batch_size=3, device="cpu")
    base = LorafuseLM("base", zoo=zoo.root, batch_size=3, device="cpu")
    theirs, ours, without = (
        [score for score, _ in lm.loglikelihood(instances("loglikelihood"), disable_tqdm=True)]
        for lm in (stock, fused, base)
    )
    assert vllm_scores == pytest.approx(theirs, abs=1e-4)
    assert vllm_scores == pytest.approx(ours, abs=1e-4)
    assert vllm_scores != pytest.approx(without, abs=1e-2), (
        "too small an update for this test to mean anything"
    )
