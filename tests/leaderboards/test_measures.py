"""Measures by name: their values by hand, and one that a package brings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toy_cells import cell, write

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards import measures, stats
from lorafuse_bench.leaderboards.builder import build
from lorafuse_bench.leaderboards.measures import BLEU, LOSS, MCC, MEAN, RATIO, Measure
from lorafuse_bench.leaderboards.verify import verify


@pytest.mark.parametrize(
    ("measure", "items", "value", "alone"),
    [
        (MEAN, [1.0, 0.0, 0.5], 0.5, [1.0, 0.0, 0.5]),
        (RATIO, [[1, 2], [3, 4]], 4 / 6, [0.5, 0.75]),
        (LOSS, [[6, 4], [0, 0]], 1.5, [1.5, 0.0]),
        (BLEU, [[4, 4, 4, 3, 2, 1, 4, 3, 2, 1]] * 2, 1.0, [1.0, 1.0]),
        (MCC, [[1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0]], 0.0, [1.0, 0.0]),
    ],
    ids=lambda x: x.name if isinstance(x, Measure) else "",
)
def test_values_by_hand(measure: Measure, items: list[object], value: float, alone: list[float]) -> None:
    assert measure.point(items) == pytest.approx(value)
    assert measure.per_item(measure.array(items)) == pytest.approx(alone)
    assert stats.statistic(items, measure=measure).value == pytest.approx(value)
    assert measures.named(measure.name) is measure


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
    monkeypatch.setattr(measures, "_MEASURES", dict(measures.measures()))

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
