"""Metric values against hand computation and against the reference packages."""

from __future__ import annotations

import math
import random
import time
from decimal import Decimal

import numpy as np
import pytest
import sacrebleu
from sklearn.metrics import matthews_corrcoef

from lorafuse_bench.tasks.metrics import accuracy, bleu, gsm8k, matthews, nll, rouge, squad
from lorafuse_bench.tasks.metrics.evaluate_metrics import (
    CorpusBleu,
    FinalNumber,
    LabelAccuracy,
    SquadAnswer,
    SummaryRouge,
)

WORDS = tuple("wir gehen heute nach Hause , weil das Haus sehr alt und klein ist .".split())


def sentences(count: int) -> tuple[list[str], list[str]]:
    """Random references, and predictions that keep about four words in five."""
    rng = np.random.default_rng(7)
    references = [" ".join(rng.choice(WORDS, size=rng.integers(4, 15))) for _ in range(count)]
    predictions = [
        " ".join(word if rng.random() < 0.8 else str(rng.choice(WORDS)) for word in text.split())
        for text in references
    ]
    return predictions, references


# SQuAD: normalised tokens counted by hand.
@pytest.mark.parametrize(
    ("prediction", "references", "em", "f1"),
    [
        ("The Denver Broncos!", ["Denver Broncos"], 1, 1),  # article and punctuation do not count
        ("Broncos of Denver", ["Denver Broncos"], 0, 0.8),  # P = 2/3, R = 2/2
        ("Broncos", ["Carolina Panthers", "Denver Broncos"], 0, 2 / 3),  # best reference: P = 1, R = 1/2
        ("gold gold", ["gold"], 0, 2 / 3),  # a token is matched once: P = 1/2, R = 1
        ("theatre", ["a theatre"], 1, 1),  # "the" inside a word is no article
        ("", ["gold"], 0, 0),
        ("the", ["a"], 1, 0),  # both empty after normalisation: v1.1 gives EM 1 and F1 0
        ("U.S.", ["US"], 1, 1),
        ("ninety-nine", ["ninety nine"], 0, 0),  # the hyphen goes without a space
    ],
)
def test_squad_by_hand(prediction: str, references: list[str], em: float, f1: float) -> None:
    assert squad.exact_match(prediction, references) == em
    assert squad.f1(prediction, references) == pytest.approx(f1)


def test_bleu_equals_sacrebleus_corpus_bleu() -> None:
    predictions, references = sentences(60)
    items = [bleu.statistics(*pair) for pair in zip(predictions, references, strict=True)]
    expected = sacrebleu.corpus_bleu(predictions, [references]).score / 100
    assert 0.3 < expected < 0.9
    assert bleu.corpus_bleu(items) == pytest.approx(expected, abs=1e-12)
    assert all(len(item) == 10 and all(type(count) is int for count in item) for item in items)


def test_bleu_counts_by_hand() -> None:
    # prediction "a b c d e" against "a b c x e": 4 of 5 words, ab and bc of 4 pairs, abc of 3, none of 2.
    assert bleu.statistics("a b c d e", "a b c x e") == [5, 5, 4, 2, 1, 0, 5, 4, 3, 2]
    # exponential smoothing makes the missing 4-gram match 1/2 of one: (4/5 * 2/4 * 1/3 * 1/4) ** (1/4)
    assert bleu.corpus_bleu([[5, 5, 4, 2, 1, 0, 5, 4, 3, 2]]) == pytest.approx((1 / 30) ** 0.25)


def test_bleu_punishes_brevity_over_the_corpus_not_per_item() -> None:
    long, short = bleu.statistics("a b c d e f", "a b c d e f"), bleu.statistics("", "a b c d")
    assert bleu.corpus_bleu([long, short]) == pytest.approx(math.exp(1 - 10 / 6))


def test_bleu_of_nothing_right_is_zero() -> None:
    assert bleu.corpus_bleu([bleu.statistics("x y", "a b"), bleu.statistics("", "a b")]) == 0.0


def test_bootstrap_agrees_with_resampling_the_texts() -> None:
    predictions, references = sentences(40)
    items = [bleu.statistics(*pair) for pair in zip(predictions, references, strict=True)]
    rng = np.random.default_rng(1)
    scores = []
    for _ in range(400):
        drawn = rng.integers(40, size=40)
        texts = [predictions[i] for i in drawn], [references[i] for i in drawn]
        scores.append(sacrebleu.corpus_bleu(texts[0], [texts[1]]).score / 100)
    # Each side has a relative error of about 1/sqrt(2 * 400) = 3.5%.
    assert bleu.bootstrap_stderr(items) == pytest.approx(np.std(scores, ddof=1), rel=0.15)


def test_bootstrap_is_repeatable_fast_and_leaves_the_global_generator_alone() -> None:
    predictions, references = sentences(1000)
    items = [bleu.statistics(*pair) for pair in zip(predictions, references, strict=True)]
    before = np.random.get_state()[1].tolist()  # type: ignore[index,union-attr]
    started = time.process_time()
    first = bleu.bootstrap_stderr(items)
    assert time.process_time() - started < 0.5  # 0.03 s on an idle core
    assert bleu.bootstrap_stderr(items) == first
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index,union-attr]


def test_bootstrap_of_one_item_is_not_available() -> None:
    assert bleu.bootstrap_stderr([[5, 5, 4, 2, 1, 0, 5, 4, 3, 2]]) == "N/A"


def test_rouge_by_hand() -> None:
    # 3 of 4 words shared, 2 of 3 pairs... "the cat ran" keeps its order: LCS 3.
    found = rouge.rouge("the cat ran home", "the cat ran away")
    assert found == {"rouge1": 0.75, "rouge2": pytest.approx(2 / 3), "rougeL": 0.75}


def test_rouge_stems_words() -> None:
    assert rouge.rouge("bridges opening", "bridge opened")["rouge1"] == 1.0


def test_rouge_l_follows_order() -> None:
    # "a b c d" against "d a b c": every word is shared, the longest common subsequence has three.
    found = rouge.rouge("alpha beta gamma delta", "delta alpha beta gamma")
    assert (found["rouge1"], found["rougeL"]) == (1.0, 0.75)


@pytest.mark.parametrize(
    ("prediction", "label", "right"),
    [
        (" positive", "positive", 1),
        ("Positive.\t", "positive", 1),
        ("positive!!", "positive", 1),
        ("very positive", "positive", 0),
        ("positive negative", "positive", 0),
        ("", "positive", 0),
        ("1.", "1", 1),
        ("Solution 1", "1", 0),
    ],
)
def test_label_accuracy(prediction: str, label: str, right: float) -> None:
    assert accuracy.label_accuracy(prediction, label) == right


def test_options_take_the_likeliest_word() -> None:
    likelihoods = [(-3.0, False), (-2.0, True), (-9.0, False)]
    for right in range(3):
        assert accuracy.score_options("abc", right, likelihoods) == {"acc_options": float(right == 1)}


def test_correlation_is_that_of_scikit_learn_where_neither_word_is_an_answer_of_its_own() -> None:
    rng = random.Random("matthews")
    words = ("unacceptable", "acceptable")
    right = [rng.randrange(2) for _ in range(60)]
    wrote = [rng.choice((label, label, rng.randrange(3))) for label in right]
    texts = [(*words, "who knows")[answer] for answer in wrote]
    items = [matthews.counts(words, label, text) for label, text in zip(right, texts, strict=True)]
    assert matthews.correlation(items) == pytest.approx(matthews_corrcoef(right, wrote))
    both = [(label, answer) for label, answer in zip(right, wrote, strict=True) if answer < 2]
    kept = [item for item, answer in zip(items, wrote, strict=True) if answer < 2]
    assert matthews.correlation(kept) == pytest.approx(matthews_corrcoef(*zip(*both, strict=True)))
    assert [text in words for text in texts].count(False) > 0


def test_correlation_without_labels_or_without_variation_is_zero() -> None:
    words = ("no", "yes")
    assert matthews.correlation([matthews.counts(words, label, "well") for label in (0, 1, 1)]) == 0.0
    assert matthews.correlation([matthews.counts(words, label, "Yes.") for label in (0, 1, 1)]) == 0.0
    assert matthews.correlation([matthews.counts(words, label, words[label]) for label in (0, 1)]) == 1.0
    assert matthews.correlation([matthews.counts(words, label, words[1 - label]) for label in (0, 1)]) == -1.0


def test_error_of_a_correlation_is_the_bootstraps() -> None:
    """Against scikit-learn on resampled labels; the standard deviation of 400 draws is good to 10%."""
    rng = np.random.default_rng(0)
    right = rng.integers(0, 2, 200)
    wrote = np.where(rng.random(200) < 0.8, right, 1 - right)
    words = ("no", "yes")
    items = [matthews.counts(words, int(r), words[int(w)]) for r, w in zip(right, wrote, strict=True)]
    picks = rng.integers(0, 200, (400, 200))
    expected = np.std([matthews_corrcoef(right[pick], wrote[pick]) for pick in picks])
    assert matthews.stderr(items) == pytest.approx(expected, rel=0.15)
    assert matthews.stderr(items[:1]) == "N/A"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("5 + 6 = 11 #### 11", "11"),
        ("#### 3 no, wait #### 4 apples and 5 pears", "4"),
        ("It costs $1,234.50.", "1234.5"),
        ("#### -7", "-7"),
        ("so 12, then 13.", "13"),
        ("about .5", "0.5"),
        ("10-3", "3"),
        ("#### none, though 4 before", "4"),
        ("3 #### none", None),
        ("no number", None),
    ],
)
def test_final_number(text: str, number: str | None) -> None:
    assert gsm8k.final_number(text) == (None if number is None else Decimal(number))


def test_gsm8k_compares_values() -> None:
    assert gsm8k.exact_match("#### 1000", "... #### 1,000") == 1.0
    assert gsm8k.exact_match("it is 1000.00", "#### 1,000") == 1.0
    assert gsm8k.exact_match("no idea", "#### 1,000") == 0.0
    assert gsm8k.exact_match("no idea", "no number") == 0.0


def test_nll_counts_utf8_bytes() -> None:
    assert nll.nll_per_byte(-10.0, " Früh") == pytest.approx(10 / 6)  # ü takes two
    assert nll.exp_mean([1.0, 3.0]) == pytest.approx(math.exp(2))
    assert nll.exp_mean([1e6]) == math.inf


def test_evaluate_classes_give_the_same_numbers() -> None:
    predictions, references = sentences(20)
    found = CorpusBleu().compute(predictions=predictions, references=references)
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(predictions, [references]).score / 100)
    assert 0 < found["bleu_stderr"] < 0.1
    answers = SquadAnswer().compute(predictions=["the Broncos", "x"], references=[["a", "Broncos"], ["y z"]])
    assert answers == {"em": 0.5, "f1": 0.5}
    summaries = SummaryRouge().compute(
        predictions=["the cat ran home", "b"], references=["the cat ran away", "b"]
    )
    assert summaries == {"rouge1": 0.875, "rouge2": pytest.approx(1 / 3), "rougeL": 0.875}
    labels = LabelAccuracy().compute(predictions=["Neutral.", "x"], references=["neutral", "neutral"])
    assert labels == {"acc": 0.5}
    numbers = FinalNumber().compute(
        predictions=["#### 5", "6", "7"], references=["#### 5", "#### 5", "#### 7"]
    )
    assert numbers["exact_match"] == pytest.approx(2 / 3)
