"""Matthews correlation of a two-word label, on -1 to 1 (Matthews, 1975; as GLUE scores CoLA).

An item is the six counts `[right 0: wrote 0, wrote 1, wrote neither; right 1: the same three]`, and the
correlation that of the summed table. Writing neither word is a third answer (Gorodkin's form, 2004), so a
model that writes no label has correlation 0 and not -1.
"""

from __future__ import annotations

from collections.abc import Sequence

from lorafuse_bench.leaderboards.measures.labels import MCC
from lorafuse_bench.leaderboards.statistics import stats
from lorafuse_bench.tasks.metrics.accuracy import label_accuracy, score_written


def counts(words: Sequence[str], right: int, prediction: str) -> list[int]:
    """The six counts of one prediction; one of them is 1."""
    wrote = next((i for i, word in enumerate(words) if label_accuracy(prediction, word)), len(words))
    return [int((i, j) == (right, wrote)) for i in range(2) for j in range(3)]


def correlation(items: Sequence[Sequence[int]]) -> float:
    """Correlation over items given as counts; 0 where only one word is right or only one is written."""
    return MCC.point(items)


def stderr(items: Sequence[Sequence[int]]) -> float | str:
    """Standard deviation over resamples of the items, drawn as counts; `"N/A"` for fewer than two items."""
    error = stats.statistic(items, measure=MCC).estimate().se
    return "N/A" if error is None else error


def score_correlation(words: Sequence[str], right: int, results: Sequence[str]) -> dict[str, object]:
    """Items of cola; `<name>_stderr` fills lm-eval's column as in `bleu`."""
    table = counts(words, right, results[0])
    accuracy = score_written(words, right, results)["acc"]
    return {"mcc": table, "mcc_stderr": table, "acc": accuracy, "score": table, "score_stderr": table}
