"""Measures by name: their values by hand, and one that a package brings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_cells import cell, write

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards import measures
from lorafuse_bench.leaderboards.boards.builder import build
from lorafuse_bench.leaderboards.measures import Measure
from lorafuse_bench.leaderboards.measures import measure as known
from lorafuse_bench.leaderboards.measures.bleu import BLEU, BLEU_PERCENT
from lorafuse_bench.leaderboards.measures.chrf import CHRF
from lorafuse_bench.leaderboards.measures.labels import F1, MCC
from lorafuse_bench.leaderboards.measures.mean import MEAN
from lorafuse_bench.leaderboards.measures.perplexity import PERPLEXITY
from lorafuse_bench.leaderboards.measures.ratio import LOSS, RATIO
from lorafuse_bench.leaderboards.publishing.verify import verify
from lorafuse_bench.leaderboards.statistics import stats


@pytest.mark.parametrize(
    ("measure", "items", "value", "alone"),
    [
        (MEAN, [1.0, 0.0, 0.5], 0.5, [1.0, 0.0, 0.5]),
        (RATIO, [[1, 2], [3, 4]], 4 / 6, [0.5, 0.75]),
        (LOSS, [[6, 4], [0, 0]], 1.5, [1.5, 0.0]),
        (BLEU, [[4, 4, 4, 3, 2, 1, 4, 3, 2, 1]] * 2, 1.0, [1.0, 1.0]),
        (MCC, [[1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0]], 0.0, [1.0, 0.0]),
        (F1, [[0, 0, 0, 0, 1, 0], [0, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0]], 2 / 3, [1.0, 0.0, 1.0]),
        (BLEU_PERCENT, [[4, 4, 4, 3, 2, 1, 4, 3, 2, 1]] * 2, 100.0, [100.0, 100.0]),
        (CHRF, [[2, 2, 1, *[0] * 15], [2, 2, 2, *[0] * 15]], 75.0, [50.0, 100.0]),
        (PERPLEXITY, [[np.log(4), 1], [0, 1]], 2.0, [4.0, 1.0]),
    ],
    ids=lambda x: x.name if isinstance(x, Measure) else "",
)
def test_values_by_hand(measure: Measure, items: list[object], value: float, alone: list[float]) -> None:
    assert measure.point(items) == pytest.approx(value)
    assert measure.per_item(measure.array(items)) == pytest.approx(alone)
    assert stats.statistic(items, measure=measure).value == pytest.approx(value)
    assert measures.named(measure.name) is measure


LABELS = [(1, 1), (1, 0), (0, 0), (0, 1), (1, 1), (1, 0)]
TEXTS = [
    ("the cat sat on the mat .", "the cat sat on a mat ."),
    (["a dog barks loudly", "one dog barks"], ["one dog barks loud"]),
    ("nothing in common", "quite other words here"),
    ("(so) it ends", "so it ends"),
]
LOGGED: dict[str, list[Any]] = {
    "mean": [0.5, 1, 0],
    "nanmean": [1.0, float("nan"), 0.5],
    "f1": LABELS,
    "matthews_corrcoef": LABELS,
    "bleu": TEXTS[:1] + TEXTS[2:],
    "chrf": TEXTS[:1] + TEXTS[2:],
    "chrf++": TEXTS[:1] + TEXTS[2:],
    "ter": TEXTS[:1] + TEXTS[2:],
    "perplexity": [-1.5, -0.25, -3.0],
    "weighted_perplexity": [(-30.5, 12), (-8.25, 3)],
    "bits_per_byte": [(-30.5, 60), (-8.25, 15)],
}
"""lm-eval's own aggregations, each with items as it logs them."""
NO_SUMS = {"bypass", "median", "brier_score"}
"""Those whose value no sum of items makes, or, of the last, whose items lm-eval's files round."""


@pytest.mark.parametrize("aggregation", LOGGED)
def test_an_aggregation_of_lm_evals_has_its_value_and_an_error(aggregation: str) -> None:
    """As logged in memory, and as it reads back from lm-eval's files."""
    import lm_eval.api.metrics  # noqa: F401  its import registers them
    from lm_eval.api.registry import AGGREGATION_REGISTRY

    found = measures.reader(aggregation)
    assert found is not None
    measure, reading = found
    items = LOGGED[aggregation]
    rows = [reading.row(item) for item in items]
    again = [reading.row(item) for item in json.loads(json.dumps(items))]
    estimate = stats.statistic(rows, measure=measure).estimate()
    assert estimate.value == pytest.approx(AGGREGATION_REGISTRY[aggregation](items), rel=1e-12)
    assert estimate.se is not None and estimate.se > 0 and rows == again
    assert measure.impossible(measure.array(rows), reading.unit or "fraction") is None


def test_several_references_count_as_sacrebleu_counts_them() -> None:
    import sacrebleu

    (_, _), (references, (text,)), *_ = TEXTS
    for name, corpus in (
        ("bleu", sacrebleu.corpus_bleu),
        ("chrf", sacrebleu.corpus_chrf),
        ("ter", sacrebleu.corpus_ter),
    ):
        measure, reading = measures.reader(name)  # type: ignore[misc]
        value = measure.point([reading.row((references, [text]))])
        assert value == pytest.approx(corpus([text], [[each] for each in references]).score)


def test_every_aggregation_of_lm_evals_is_read_or_known_to_be_no_sum() -> None:
    import lm_eval.api.metrics  # noqa: F401
    from lm_eval.api.registry import AGGREGATION_REGISTRY

    unread = {name for name in AGGREGATION_REGISTRY if measures.reader(name) is None}
    assert unread == NO_SUMS and set(LOGGED) == set(AGGREGATION_REGISTRY) - NO_SUMS


def test_labels_beyond_two_are_named() -> None:
    _, reading = measures.reader("f1")  # type: ignore[misc]
    with pytest.raises(LorafuseError, match="label 2: f1 and mcc are of two labels"):
        reading.row((2, 0))


def test_items_fit_the_measure_of_their_width_and_unit() -> None:
    assert measures.fitting([1.0, 0.0]) is MEAN
    assert measures.fitting([[1.0, 2.0]], "fraction") is RATIO
    assert measures.fitting([[1.0, 2.0]], "nats/token") is LOSS
    with pytest.raises(LorafuseError, match="no known kind.*mean 1, ratio 2"):
        measures.fitting([[1.0, 2.0, 3.0]])
    with pytest.raises(LorafuseError, match=r"unknown measure 'rato'. Did you mean 'ratio'\?"):
        measures.named("rato")


@pytest.fixture
def highest(monkeypatch: pytest.MonkeyPatch) -> Measure:
    """The F1 of summed [hits, written, expected], as a package would bring it."""
    monkeypatch.setattr(known, "_MEASURES", dict(measures.measures()))

    def f1(sums: measures.Array) -> measures.Array:
        return np.asarray(2 * sums[..., 0] / np.maximum(sums[..., 1] + sums[..., 2], 1))

    def possible(items: measures.Array, unit: str) -> str | None:
        return "more hits than written" if (items[:, 0] > items[:, 1]).any() else None

    return measures.register(Measure("micro_f1", 3, "bootstrap", f1, f1, possible))


def test_a_package_brings_a_measure(tmp_path: Path, highest: Measure) -> None:
    """From items to a board, with its standard error from resamples, and its own impossible counts."""
    good, half, none = [[3, 3, 3]] * 8, [[3, 3, 3], [0, 3, 3]] * 4, [[0, 3, 3]] * 8
    for label, items in (("base", none), ("oracle", good), ("svd", half)):
        write(tmp_path, label, {"one": items})
    assert verify(tmp_path).problems == ()
    (board,) = build([tmp_path]).boards
    scores = next(row for row in board.rows if row.label == "svd").tasks["one"]
    assert scores.normalised and scores.normalised.value == pytest.approx(0.5)
    assert scores.normalised.se and scores.normalised.se > 0
    with pytest.raises(LorafuseError, match=r"one\.metrics\.bleu: more hits than written"):
        write(tmp_path, "ties", {"one": [[3, 2, 3]] * 8})
    with pytest.raises(LorafuseError, match="'micro_f1' is registered already"):
        measures.register(
            Measure("micro_f1", 2, "ratio", highest.of_sums, highest.per_item, highest.impossible)
        )


def test_a_result_names_its_measures() -> None:
    result, _ = cell("moa", {"one": [1.0, 0.0], "two": [[2.0, 3.0]] * 2}, loss=("two",))
    assert [result.tasks[key].metrics[name].measure for key, name in (("one", "acc"), ("two", "nll"))] == [
        "mean",
        "loss",
    ]
