"""Pairs of methods: the errors of differences and the items won, beside the plain formulas."""

from pathlib import Path

import numpy as np
import pytest
from toy_cells import write

from lorafuse_bench.leaderboards.boards.builder import build
from lorafuse_bench.leaderboards.boards.collect import Group, collect
from lorafuse_bench.leaderboards.boards.pairs import ability_pairs, task_pairs
from lorafuse_bench.leaderboards.statistics import stats

N = 40
LABELS = ("base", "concat", "oracle", "svd")


def scores_of(label: str, seed: int) -> dict[str, list]:
    """A score, a corpus BLEU, a loss; the better the later in `LABELS`, but for the base."""
    random = np.random.default_rng([seed, LABELS.index(label)])
    skill = {"base": 0.2, "concat": 0.5, "svd": 0.6, "oracle": 0.9}[label]
    correct = random.binomial(9, skill, size=N)
    return {
        "one": (random.random(N) < skill).astype(float).tolist(),
        "two": [[9, 9, c, max(c - 1, 0), max(c - 2, 0), max(c - 3, 0), 9, 8, 7, 6] for c in correct.tolist()],
        "three": [[float(x), 4.0] for x in random.gamma(9, 1.2 - skill, size=N)],
    }


@pytest.fixture
def group(tmp_path: Path) -> Group:
    for seed in (1, 2):
        for label in LABELS:
            write(tmp_path, label, scores_of(label, seed), zoo={"seed": seed}, loss=("three",))
    write(tmp_path, "half", {"one": scores_of("svd", 1)["one"]}, zoo={"seed": 1}, loss=("three",))
    return collect([tmp_path])[0]


@pytest.mark.parametrize("key", ["one", "two", "three"])
def test_errors_are_those_of_paired_differences(group: Group, key: str) -> None:
    pairs = task_pairs(group, key)
    assert pairs.labels == LABELS  # `half` was not run with every seed
    for i, a in enumerate(LABELS):
        for j, b in enumerate(LABELS):
            expected = np.mean(
                [
                    stats.paired_difference(m[a].representative(key), m[b].representative(key)).se
                    for m in group.cells.values()
                ]
            )
            assert pairs.se[i, j] == pytest.approx(expected)
    assert pairs.items == 2 * N


def test_items_won_are_counted_over_seeds(group: Group) -> None:
    pairs = task_pairs(group, "one")
    assert pairs.better is not None
    expected = 0
    for seed in (1, 2):
        svd, base = scores_of("svd", seed)["one"], scores_of("base", seed)["one"]
        expected += sum(x > y for x, y in zip(svd, base, strict=True))
    assert pairs.better[LABELS.index("svd"), LABELS.index("base")] == expected
    assert (np.diag(pairs.better) == 0).all()


def test_of_a_loss_less_is_better(group: Group) -> None:
    pairs = task_pairs(group, "three")
    assert pairs.better is not None
    oracle, base = LABELS.index("oracle"), LABELS.index("base")
    assert pairs.better[oracle, base] > 0.9 * pairs.items
    assert pairs.better[oracle, base] + pairs.better[base, oracle] == pairs.items


def test_errors_of_ability_are_of_ratios_over_tasks(group: Group, tmp_path: Path) -> None:
    pairs = ability_pairs(group, build([tmp_path]).boards[0])
    assert pairs is not None and pairs.labels == LABELS and pairs.better is None
    expected = []
    for members in group.cells.values():
        squares = 0.0
        for key in ("one", "two"):  # the loss stays out
            x, y, o = (members[label].representative(key) for label in ("svd", "concat", "oracle"))
            z = (x.deviations - y.deviations - (x.value - y.value) / o.value * o.deviations) / o.value
            squares += (np.std(z, ddof=1) * x.scale) ** 2
        expected.append(np.sqrt(squares) / 2)
    # Two zoos halve the variance; the bootstrap of 80 items is within a few percent of the formula.
    formula = np.mean(expected) / np.sqrt(2)
    assert pairs.se[LABELS.index("svd"), LABELS.index("concat")] == pytest.approx(formula, rel=0.1)


def test_where_no_task_counts_there_is_no_ability(tmp_path: Path) -> None:
    for label in ("base", "oracle"):
        write(tmp_path, label, {"one": [1.0, 0.0] * 4})
    assert ability_pairs(collect([tmp_path])[0], build([tmp_path]).boards[0]) is None


def test_one_item_has_no_known_error(tmp_path: Path) -> None:
    for label in ("base", "oracle"):
        write(tmp_path, label, {"one": [float(label == "oracle")]})
    assert np.isnan(task_pairs(collect([tmp_path])[0], "one").se[0, 1])
