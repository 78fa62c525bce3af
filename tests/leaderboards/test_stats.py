"""Each statistic against a hand computation, and the intervals against simulation."""

from itertools import pairwise

import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.statistics import stats


def test_mean_by_hand() -> None:
    # items 1 and 0: mean 1/2, sd sqrt(1/2), SE = sqrt(1/2)/sqrt(2) = 1/2
    assert stats.statistic([1.0, 0.0]).estimate() == stats.Estimate(0.5, pytest.approx(0.5))


def test_ratio_of_sums_by_hand() -> None:
    # 6 nats over 4 tokens: 1.5; z = ((2 - 1.5)/2, (4 - 4.5)/2) = (1/4, -1/4), sd = sqrt(1/8), SE = 1/4
    estimate = stats.statistic([[2.0, 1.0], [4.0, 3.0]]).estimate()
    assert estimate == stats.Estimate(1.5, pytest.approx(0.25))


def test_paired_ratio_by_hand() -> None:
    # x = (1, 0), y = (1, 1): r = 1/2, z = (1/2, -1/2), sd = sqrt(1/2), SE = 1/2
    ratio = stats.paired_ratio(stats.statistic([1.0, 0.0]), stats.statistic([1.0, 1.0]))
    assert ratio == stats.Estimate(0.5, pytest.approx(0.5))


def test_a_method_equal_to_the_oracle_is_exactly_one() -> None:
    y = stats.statistic([1.0, 0.0, 1.0, 1.0])
    assert stats.paired_ratio(y, y) == stats.Estimate(1.0, 0.0)


def test_ratio_above_one_stays() -> None:
    better = stats.paired_ratio(stats.statistic([1.0, 1.0]), stats.statistic([1.0, 0.0]))
    assert better.value == 2.0


def test_recovered_gap_by_hand() -> None:
    # losses: base 4, x 3, oracle 2 on average; half of the gap, and z = ((1, 1) - 0.5 (3, 1))/2 = (-1/4, 1/4)
    base, x, oracle = stats.statistic([5.0, 3.0]), stats.statistic([4.0, 2.0]), stats.statistic([2.0, 2.0])
    assert stats.recovered_gap(x, base, oracle) == stats.Estimate(0.5, pytest.approx(0.25))
    assert stats.paired_difference(x, oracle).value == 1.0


def test_mean_of_independent_tasks_by_hand() -> None:
    # SE = sqrt(0.3^2 + 0.4^2)/2 = 0.25
    assert stats.mean_of([stats.Estimate(1.0, 0.3), stats.Estimate(0.5, 0.4)]) == stats.Estimate(0.75, 0.25)
    with pytest.raises(LorafuseError, match="no task counts"):
        stats.mean_of([])


def test_one_item_has_no_error() -> None:
    assert stats.statistic([1.0]).estimate().se is None
    assert stats.statistic([[3, 3, 3, 2, 1, 0, 3, 2, 1, 0]]).estimate().se is None


def test_corpus_bleu_is_sacrebleus() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        words = list("abcdef")[: rng.integers(1, 7)]
        n = rng.integers(1, 5)
        systems = [" ".join(rng.choice(words, size=rng.integers(0, 9))) for _ in range(n)]
        references = [" ".join(rng.choice(words, size=rng.integers(1, 9))) for _ in range(n)]
        items = [sufficient_statistics(s, r) for s, r in zip(systems, references, strict=True)]
        expected = BLEU(tokenize="none").corpus_score(systems, [references]).score / 100
        assert stats.statistic(items).value == pytest.approx(expected, abs=1e-12)


def sufficient_statistics(system: str, reference: str) -> list[int]:
    """The ten BLEU counts of one sentence, counted anew."""
    a, b = system.split(), reference.split()
    correct, total = [], []
    for order in range(1, 5):
        left = [tuple(b[i : i + order]) for i in range(len(b) - order + 1)]
        right = [tuple(a[i : i + order]) for i in range(len(a) - order + 1)]
        correct.append(sum(min(right.count(gram), left.count(gram)) for gram in set(right)))
        total.append(len(right))
    return [len(a), len(b), *correct, *total]


def test_bootstrap_of_bleu_is_paired_and_repeatable() -> None:
    rng = np.random.default_rng(1)
    rows = [sufficient_statistics("a b c d e f"[: 2 * k], "a b c d e f") for k in rng.integers(2, 7, size=40)]
    x, y = stats.statistic(rows), stats.statistic(rows)
    assert np.array_equal(x.deviations, y.deviations)
    assert stats.paired_ratio(x, y) == stats.Estimate(1.0, 0.0)
    assert 0 < (x.estimate().se or 0) < 0.2


def test_bootstrap_of_a_mean_agrees_with_the_formula() -> None:
    scores = np.random.default_rng(2).random(200)
    draws = stats.resampled([scores], "")
    assert np.std(draws, ddof=1) == pytest.approx(stats.statistic(scores).estimate().se, rel=0.05)


@pytest.mark.parametrize(
    ("oracle", "base", "direction", "reason"),
    [
        ([1.0] * 19 + [0.0], [0.0] * 20, "up", None),
        ([1.0] * 10 + [0.0] * 10, [0.0] * 10 + [1.0] * 10, "up", "does not beat the base"),
        ([0.0] * 20, [0.0] * 20, "up", "does not beat the base"),
        ([1.0, 1.0, 1.0, 1.0, 1.0] + [0.0] * 40, [0.0] * 45, "up", "too large to divide by"),
        ([1.0], [0.0], "up", "fewer than 2 items"),
        ([0.0, 0.0], [-1.0, -1.0], "up", "not positive"),
        ([1.0, 2.0] * 10, [3.0, 4.0] * 10, "down", None),
        ([3.0, 4.0] * 10, [1.0, 2.0] * 10, "down", "does not beat the base"),
    ],
)
def test_oracle_gate(oracle: list[float], base: list[float], direction: str, reason: str | None) -> None:
    found = stats.oracle_gate(stats.statistic(oracle), stats.statistic(base), direction)
    assert found is None if reason is None else reason in (found or "")


@pytest.mark.parametrize("n", [200, 1000])
@pytest.mark.parametrize("agreement", [0.0, 0.95])
def test_intervals_cover_and_naive_ones_do_not(agreement: float, n: int) -> None:
    """95% intervals of r for accuracies .6 and .8 cover 93-97%; the two naive ones do not.

    With probability `agreement` both methods see the same luck, else each its own.
    """
    rng = np.random.default_rng(3)
    runs, a, b = 2000, 0.6, 0.8
    hits, exact, apart = 0, 0, 0
    for _ in range(runs):
        mine, luck = rng.random(n), rng.random(n)
        theirs = np.where(rng.random(n) < agreement, mine, luck)
        x, y = stats.statistic((mine < a).astype(float)), stats.statistic((theirs < b).astype(float))
        ratio = stats.paired_ratio(x, y)
        hits += abs(ratio.value - a / b) <= stats.Z95 * (ratio.se or 0)
        mine_se, theirs_se = (s.estimate().se or 0 for s in (x, y))
        exact += abs(ratio.value - a / b) <= stats.Z95 * mine_se / y.value
        independent = np.hypot(mine_se, ratio.value * theirs_se) / y.value
        apart += abs(ratio.value - a / b) <= stats.Z95 * independent
    assert 0.93 <= hits / runs <= 0.97
    assert not 0.93 <= exact / runs <= 0.97
    # to take the errors as independent is right only where they are
    assert (0.93 <= apart / runs <= 0.97) == (agreement == 0)


@pytest.mark.parametrize("n", [200, 1000])
@pytest.mark.parametrize("agreement", [0.0, 0.9])
def test_intervals_of_the_ability_cover(agreement: float, n: int) -> None:
    """The mean of three tasks' ratios: 95% intervals cover 93-97%."""
    rng = np.random.default_rng(5)
    runs, pairs = 1500, [(0.6, 0.8), (0.3, 0.7), (0.85, 0.9)]
    truth = float(np.mean([a / b for a, b in pairs]))
    hits = 0
    for _ in range(runs):
        ratios = []
        for a, b in pairs:
            mine, luck = rng.random(n), rng.random(n)
            theirs = np.where(rng.random(n) < agreement, mine, luck)
            x, y = ((mine < a).astype(float), (theirs < b).astype(float))
            ratios.append(stats.paired_ratio(stats.statistic(x), stats.statistic(y)))
        ability = stats.mean_of(ratios)
        hits += abs(ability.value - truth) <= stats.Z95 * (ability.se or 0)
    assert 0.93 <= hits / runs <= 0.97


def test_ties_have_no_difference_and_no_error() -> None:
    x = stats.statistic([1.0, 0.0, 1.0])
    assert stats.paired_difference(x, x) == stats.Estimate(0.0, 0.0)
    same = stats.statistic([0.0, 1.0, 1.0])  # as many right, of other items: equal, but not surely
    tie = stats.paired_difference(x, same)
    assert tie.value == 0
    assert tie.se


def test_an_oracle_of_zero_is_never_divided_by() -> None:
    zero, good = stats.statistic([0.0] * 20), stats.statistic([1.0] * 20)
    assert stats.oracle_gate(zero, zero, "up")
    assert stats.oracle_gate(zero, good, "up")
    assert stats.oracle_gate(good, zero, "up") is None


def test_more_items_shrink_the_error() -> None:
    rng = np.random.default_rng(4)
    errors = [stats.statistic(rng.random(n)).estimate().se or 0 for n in (50, 500, 5000)]
    assert all(a > 2 * b for a, b in pairwise(errors))
