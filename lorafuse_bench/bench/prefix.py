"""Multiple choice against lm-eval's own Hugging Face model: `lorafuse bench prefix`."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lorafuse_bench.bench.models import Shape, random_zoo
from lorafuse_bench.bench.timing import machine, paired, target
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.model_wrappers.hf import LorafuseLM

Row = tuple[str, str]
"""A context and one of its continuations, in made-up words of one token."""

_AGREE = 1e-3
"""Largest difference of a log-probability, in nats, at which two runs count as the same work."""


def run(
    shape: Shape | None = None,
    documents: int = 64,
    batch: int = 16,
    shots: int = 5,
    rounds: int = 5,
) -> dict[str, Any]:
    """Time lm-eval's `hf` and `lorafuse` (method base) on the same requests, batch size and weights.

    Lengths are like ARC's: questions of 10 to 60 tokens, four choices of 1 to 14. Three workloads:
    no shots; `shots` examples that all documents share; and other examples for each document.
    """
    shape = shape or Shape()
    words = [f"w{i}" for i in range(shape.vocabulary - 1)]
    workloads = {
        "four_choice": made_up(words, documents),
        f"{shots}_shot": made_up(words, documents, shots),
        f"{shots}_shot_drawn": made_up(words, documents, shots, drawn=True),
    }
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        random_zoo(root, shape, experts=1)
        # Given, not saved beside the model: loading would make a tokenizer of the model's own kind of it.
        tokenizer = _tokenizer(words)
        ours = LorafuseLM("base", zoo=root, batch_size=batch, tokenizer=tokenizer)
        stock = HFLM(
            pretrained=str(root / "base"),
            tokenizer=tokenizer,
            batch_size=batch,
            device=str(ours.device),
            dtype="float32",
        )
        results = {name: compare(stock, ours, rows, rounds) for name, rows in workloads.items()}
    return {
        "schema": "lorafuse.bench.prefix/1",
        "machine": machine(),
        "shape": asdict(shape) | {"mlp_size": shape.mlp_size},
        "documents": documents,
        "batch": batch,
        "shots": shots,
        "rounds": rounds,
        "workloads": results,
        "targets": [
            target(f"{name}: stock hf / ours", result["stock_over_ours"], at_least=2.5)
            for name, result in results.items()
        ],
    }


def compare(stock: HFLM, ours: LorafuseLM, rows: Sequence[Row], rounds: int) -> dict[str, Any]:
    """Seconds and ratios of stock lm-eval, ours, and ours without sharing, whose scores must agree."""
    requests = [
        Instance("loglikelihood", {}, row, idx=0, metadata=("multiple_choice", i, 1))
        for i, row in enumerate(rows)
    ]

    def sharing(wanted: bool) -> Callable[[], list[tuple[float, bool]]]:
        def score() -> list[tuple[float, bool]]:
            ours.prefix_sharing = wanted
            return ours.loglikelihood(requests, disable_tqdm=True)

        return score

    alternatives = {
        "stock": lambda: stock.loglikelihood(requests, disable_tqdm=True),
        "ours": sharing(True),
        "ours_unshared": sharing(False),
    }
    scores = {name: [score for score, _ in call()] for name, call in alternatives.items()}
    difference = max(
        abs(a - b) for name in scores for a, b in zip(scores["stock"], scores[name], strict=True)
    )
    if difference > _AGREE:
        raise LorafuseError(
            f"bench prefix: scores differ from stock lm-eval's by {difference:.2g} nats, so times do not"
            " compare. Report this with your versions of torch and transformers."
        )
    timings = paired(alternatives, rounds, warmup=0)
    return {
        "requests": len(rows),
        "alternatives": timings.against("stock"),
        "stock_over_ours": timings.ratio("stock", "ours"),
        "unshared_over_ours": timings.ratio("ours_unshared", "ours"),
        "largest_difference_nats": difference,
    }


def made_up(words: Sequence[str], documents: int, shots: int = 0, drawn: bool = False) -> list[Row]:
    """Four requests a document; its context is the shots (drawn for each, or the same) and a question."""
    draw = random.Random(0)

    def text(least: int, typical: float, most: int) -> str:
        length = min(most, max(least, round(draw.lognormvariate(0, 0.5) * typical)))
        return " ".join(draw.choices(words, k=length))

    def examples() -> str:
        return "".join(f"{text(10, 24, 60)} {text(1, 4.5, 14)} " for _ in range(shots))

    shared = examples()
    rows: list[Row] = []
    for _ in range(documents):
        context = (examples() if drawn else shared) + text(10, 24, 60)
        rows += [(context, " " + text(1, 4.5, 14)) for _ in range(4)]
    return rows


def _tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """One token a word."""
    vocabulary = {word: i for i, word in enumerate(["<eos>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<eos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>")
