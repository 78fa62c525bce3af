"""Every shipped method, in every variant that computes something else, passes every check."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import PreTrainedModel

from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.base import FusionMethod
from lorafuse_bench.testing import parametrize_with_checks, toys
from lorafuse_bench.testing.check import Check
from lorafuse_bench.testing.run import CHECKS
from lorafuse_bench.testing.subject import Subject

SHIPPED = tuple(
    name
    for name, cls in registry.methods().items()
    if cls.__module__.startswith("lorafuse_bench.") and name != "moore"
)
VARIANTS = (
    "oracle:wrong",
    "concat:scaling=false",
    "weight_sum:average",
    "merge_uniform:space=full",
    "svd:rank=2",
    "ties:density=1",
    "ties:space=factors",
    "dare:density=1",
    "dare:combine=sum",
    "dare_ties:space=factors",
    "knots:density=1",
    "knots:merge=linear",
    "tsv:rank=2",
    "iso_cts:common=0.3",
    "core_space:merge=linear",
    "sce:density=1",
    "moa:decision=per_block+pool=last",
    "arrow:k=1",
    "arrow:merge=before",
    "spectr:k=2+score=subspace",
    "spectr:merge=two_step",
    "ensemble:space=logit",
    "ensemble:weights=sgd",
    "ensemble:weights=lp",
    "adamerging:scope=global",
)


@parametrize_with_checks([*SHIPPED, *VARIANTS])
def test_method(method: FusionMethod, check: Check) -> None:
    check(method)


CLOSE = (
    "its experts are singular vectors of W, and those of close singular values turn when W is rounded to bf16"
)


@parametrize_with_checks(["moore"], {"runs_in_bf16": CLOSE})
def test_moore(method: FusionMethod, check: Check) -> None:
    check(method)


def test_moore_runs_in_bf16_where_the_weights_are_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails above is the rounding of W alone: against fp32 on weights that bf16 holds, the check passes."""
    whole = toys._base

    def rounded(architecture: str, dtype: torch.dtype) -> PreTrainedModel:
        made: PreTrainedModel = copy.deepcopy(whole(architecture, torch.float32))
        return made.to(torch.bfloat16).to(dtype)

    monkeypatch.setattr(toys, "_base", rounded)
    CHECKS["runs_in_bf16"].run(Subject(registry.parse("moore")))
