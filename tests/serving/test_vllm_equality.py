"""vLLM gives what the Hugging Face wrapper gives, on the embedded zoo's mtl7."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from lorafuse_bench.heads import VLLM_CPU_SIZES
from lorafuse_bench.model_wrappers.hf import LorafuseLM
from lorafuse_bench.model_wrappers.vllm import LorafuseVLLM
from lorafuse_bench.tasks.suites import suite

pytestmark = pytest.mark.vllm

HOW = {"base": "base", "oracle": "adapters", "moa": "adapters", "concat": "adapter", "ties": "merged"}
ITEMS = 8
TEXT = "Premise:\nAnn saw Bo near the harbour.\nHypothesis:\nBo was near the harbour.\nRelationship:" * 3


def evaluate(lm: LorafuseLM, limit: int) -> dict[str, Any]:
    manager = TaskManager(
        include_defaults=False,
        include_path=str(files("lorafuse_bench.tasks")),
        metadata={"data": "mini"},
    )
    output = simple_evaluate(
        model=lm,
        tasks=list(manager.load(list(suite("mtl7").leaves))["tasks"].values()),
        task_manager=manager,
        limit=limit,
        log_samples=True,
        bootstrap_iters=0,
    )
    assert output is not None
    return output


def rolling(lm: LorafuseLM) -> list[float]:
    requests = [
        Instance("loglikelihood_rolling", {}, (TEXT,), idx=0, metadata=(f"lorafuse_{task}", 0, 1))
        for task in suite("mtl7").tasks
    ]
    return lm.loglikelihood_rolling(requests, disable_tqdm=True)


def answers(output: dict[str, Any]) -> list[Any]:
    return [
        response[0]
        for _, rows in sorted(output["samples"].items())
        for row in sorted(rows, key=lambda row: row["doc_id"])
        for response in row["resps"]
    ]


@pytest.fixture(scope="module", params=HOW)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[LorafuseVLLM, LorafuseLM]]:
    served = LorafuseVLLM(request.param, dtype="float32", device="cpu", data="mini")
    yield served, LorafuseLM(request.param, dtype="float32", device="cpu", data="mini", batch_size=32)
    served.close()


def test_greedy_texts_and_log_probabilities_in_fp32(pair: tuple[LorafuseVLLM, LorafuseLM]) -> None:
    """Log-probabilities of both are held against double precision: their own errors may have opposite signs."""
    served, own = pair
    method = own.fused.method
    assert served.served.how == HOW[method.name]  # type: ignore[union-attr]
    reference = LorafuseLM("base", dtype="float32", device="cpu", data="mini", batch_size=32)
    reference.model.double()
    reference.use(method)
    rows = list(zip(*(answers(evaluate(lm, ITEMS)) for lm in (*pair, reference)), strict=True))
    texts = [row for row in rows if isinstance(row[0], str)]
    scores = [row for row in rows if not isinstance(row[0], str)]
    assert len(texts) == len(suite("mtl7").tasks) * ITEMS
    assert len(scores) > 3 * ITEMS
    assert sum(theirs == ours for theirs, ours, _ in texts) >= 0.99 * len(texts)
    for theirs, ours, exact in scores:
        assert theirs[0] == pytest.approx(exact[0], rel=0, abs=1e-4)
        assert ours[0] == pytest.approx(exact[0], rel=0, abs=1e-4)
        assert theirs[1] == ours[1]


def test_rolling_log_probabilities_in_fp32(pair: tuple[LorafuseVLLM, LorafuseLM]) -> None:
    served, own = pair
    tokens = len(own.tok_encode(TEXT))
    # Whole texts: the bound holds per token.
    assert rolling(served) == pytest.approx(rolling(own), abs=1e-4 * tokens)


def test_scores_in_bf16_agree_within_their_standard_errors() -> None:
    """Of both sides' errors together; a task whose items all score alike may differ in one item."""
    items = 40
    served = LorafuseVLLM("oracle", dtype="bfloat16", device="cpu", data="mini")
    own = LorafuseLM("oracle", dtype="bfloat16", device="cpu", data="mini", batch_size=32)
    try:
        theirs, ours = (evaluate(lm, items)["results"] for lm in (served, own))
    finally:
        served.close()
    for task in (f"lorafuse_{key}" for key in suite("mtl7").tasks):
        error = sum(
            float(side[task]["score_stderr,none"])
            for side in (theirs, ours)
            if side[task]["score_stderr,none"] != "N/A"
        )
        assert theirs[task]["score,none"] == pytest.approx(
            ours[task]["score,none"], abs=max(error, 1 / items)
        ), task


def test_the_head_sizes_are_vllms_own() -> None:
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    assert tuple(CPUAttentionBackend.get_supported_head_sizes()) == VLLM_CPU_SIZES
