"""The metrics as `evaluate.Metric` classes, for use outside lm-eval.

    from lorafuse_bench.tasks.metrics.evaluate_metrics import SquadAnswer
    SquadAnswer().compute(predictions=["Paris"], references=[["Paris", "in Paris"]])

They are built here and never downloaded, so they work offline; the numbers are those of the tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import evaluate
from datasets import Features, Value
from datasets import Sequence as ListOf

from lorafuse_bench.tasks.metrics import accuracy, bleu, gsm8k, rouge, squad

_TEXT = Value("string")


class _LocalMetric(evaluate.Metric):
    """An `evaluate.Metric` over texts that keeps them in memory."""

    reference: ClassVar[Any] = _TEXT

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(keep_in_memory=True, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__ or "",
            citation="",
            inputs_description="predictions: texts; references: one text (squad: a list of texts) each",
            features=Features({"predictions": _TEXT, "references": self.reference}),
        )


class SummaryRouge(_LocalMetric):
    """Mean ROUGE-1, ROUGE-2 and ROUGE-L F-measures on 0..1."""

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        items = [rouge.rouge(*pair) for pair in zip(predictions, references, strict=True)]
        return {name: _mean([item[name] for item in items]) for name in rouge.NAMES}


class CorpusBleu(_LocalMetric):
    """Corpus BLEU on 0..1 and its bootstrap standard error."""

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float | str]:
        items = [bleu.statistics(*pair) for pair in zip(predictions, references, strict=True)]
        return {"bleu": bleu.corpus_bleu(items), "bleu_stderr": bleu.bootstrap_stderr(items)}


class SquadAnswer(_LocalMetric):
    """Mean exact match and F1 of SQuAD v1.1 on 0..1; references are lists."""

    reference = ListOf(_TEXT)

    def _compute(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
        return {
            "em": _mean_over(squad.exact_match, predictions, references),
            "f1": _mean_over(squad.f1, predictions, references),
        }


class LabelAccuracy(_LocalMetric):
    """Share of predictions that are the label, up to case and trailing punctuation."""

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        return {"acc": _mean_over(accuracy.label_accuracy, predictions, references)}


class FinalNumber(_LocalMetric):
    """Share of predictions whose final number equals the reference's."""

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        return {"exact_match": _mean_over(gsm8k.exact_match, predictions, references)}


def _mean_over(score: Callable[[str, Any], float], predictions: Sequence[str], references: Any) -> float:
    return _mean([score(*pair) for pair in zip(predictions, references, strict=True)])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
