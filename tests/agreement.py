"""Agreement of a method with a reference model, through the lm-eval model: padding, batches, cache, generation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from dense import greedy, log_probability
from lm_eval.api.instance import Instance
from transformers import PreTrainedModel

from lorafuse_bench.fusion import registry
from lorafuse_bench.model_wrappers.hf import LorafuseLM
from lorafuse_bench.zoo.manifest import Zoo

ARCHITECTURES = ("qwen2", "llama", "gpt2")
STEPS = 5
EOS = 256
REQUESTS = (
    ("sst2", "A dull film.\nSentiment:", " negative"),
    ("mnli", "Premise:\nIt rains.\nHypothesis:\nIt is wet.\nRelationship:", " entailment"),
    ("squad", "Context:\nAnn saw Bo.\nQuestion:\nWhom?\nAnswer:", " Bo"),
    ("mnli", "A dull film.\nSentiment:", " neutral"),
    ("sst2", "x:", " positive"),
)


def instances(kind: str) -> list[Instance]:
    """The requests as lm-eval makes them; several tasks arrive together."""
    made = []
    for i, (task, context, continuation) in enumerate(REQUESTS):
        args = (
            (context, continuation)
            if kind == "loglikelihood"
            else (context, {"until": ["<never>"], "max_gen_toks": STEPS, "do_sample": False})
        )
        made.append(
            Instance(request_type=kind, doc={}, arguments=args, idx=0, metadata=(f"lorafuse_{task}", i, 1))
        )
    return made


def adapters(zoo: Zoo) -> list[Path]:
    return [zoo.root / entry.path for entry in zoo.manifest.experts]


def check(lm: LorafuseLM, spec: str, reference: Callable[[str, str], PreTrainedModel]) -> None:
    """Log-probabilities and greedy texts of `spec` equal those of `reference(task, context)` for all batch sizes."""
    models = [reference(task, context) for task, context, _ in REQUESTS]
    encoded = [(lm.tok_encode(c), lm.tok_encode(t)) for _, c, t in REQUESTS]
    expected = [log_probability(m, c, t) for m, (c, t) in zip(models, encoded, strict=True)]
    texts = [lm.tok_decode(greedy(m, c, STEPS, EOS)) for m, (c, _) in zip(models, encoded, strict=True)]
    lm.use(registry.parse(spec))
    for batch_size in (1, 2, 5):
        lm.batch_size_per_gpu = batch_size
        got = [score for score, _ in lm.loglikelihood(instances("loglikelihood"), disable_tqdm=True)]
        assert got == pytest.approx(expected, rel=1e-5), f"{spec}, batch size {batch_size}"
        assert lm.generate_until(instances("generate_until"), disable_tqdm=True) == texts


def constant(model: PreTrainedModel) -> Callable[[str, str], PreTrainedModel]:
    return lambda task, context: model
