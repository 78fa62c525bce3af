"""Prompts of tasks, as the model reads them in evaluation, for analyses that look inside."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers import AutoModelForCausalLM

from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.tasks.rows import load_task, rendered
from lorafuse_bench.tasks.suites import PREFIX
from lorafuse_bench.training.examples import load_tokenizer
from lorafuse_bench.zoo.manifest import Zoo


def evaluation_prompts(
    zoo: Zoo, keys: Iterable[str], source: str, samples: int, longest: int = 512
) -> dict[str, list[list[int]]]:
    """Task key to token ids of its first evaluated prompts; of longer ones the end."""
    tokenizer: Any = load_tokenizer(str(zoo.base_folder()))
    found = {}
    for key in keys:
        task = load_task(PREFIX + key, source)
        rows = rendered(task, task.config.test_split, samples)
        found[key] = [tokenizer(row.prompt)["input_ids"][-longest:] for row in rows]
    return found


def without_experts(zoo: Zoo) -> FusedModel:
    """The zoo's base, ready for its trained adapters."""
    model = AutoModelForCausalLM.from_pretrained(zoo.base_folder()).eval()
    return FusedModel(model, zoo, ExpertPool.from_zoo(zoo, []))
