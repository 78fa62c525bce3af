"""The generated tasks give nothing away that their experts should have to work out."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from lorafuse_bench.mini_world import task_rows
from lorafuse_bench.mini_world.world import make_world

WORLD = make_world(0)
ROWS = 3000


def rows(name: str) -> list[task_rows.Row]:
    rng = random.Random(f"giveaways {name}")
    return [getattr(task_rows, name)(WORLD, rng) for _ in range(ROWS)]


def accuracy_above_chance(texts: list[str], labels: list[int]) -> float:
    """Held-out accuracy of a linear bag of words, minus the most frequent label's share."""
    cut = len(texts) * 2 // 3
    classifier = make_pipeline(CountVectorizer(token_pattern=r"\S+"), LogisticRegression(max_iter=1000))
    classifier.fit(texts[:cut], labels[:cut])
    right = float(np.mean(classifier.predict(texts[cut:]) == labels[cut:]))
    return right - Counter(labels[cut:]).most_common(1)[0][1] / len(labels[cut:])


# 1000 held-out rows: chance moves by less than .05 (three standard errors).
@pytest.mark.parametrize(
    ("name", "shown"),
    [("mnli", ["hypothesis"]), ("mnli", ["premise"]), ("piqa", ["sol1", "sol2"]), ("sst2", ["sentence"])],
)
def test_part_of_a_row_does_not_tell_its_label(name: str, shown: list[str]) -> None:
    made = rows(name)
    texts = [" ".join(f"{column}={word}" for column in shown for word in row[column].split()) for row in made]
    assert accuracy_above_chance(texts, [row["label"] for row in made]) < 0.05


def test_the_check_can_fail() -> None:
    made = rows("sst2")
    texts = [f"{row['sentence']} {row['label']}" for row in made]
    assert accuracy_above_chance(texts, [row["label"] for row in made]) > 0.4


@pytest.mark.parametrize("name", ["mnli", "piqa", "sst2"])
def test_labels_are_balanced(name: str) -> None:
    counts = Counter(row["label"] for row in rows(name))
    assert max(counts.values()) - min(counts.values()) < 0.1 * ROWS


def test_relations_are_not_given_away_by_negation() -> None:
    """Opposites and other categories contradict; the word "not" marks no relation."""
    assert not any(" not " in row["hypothesis"] for row in rows("mnli"))


def test_every_news_position_and_every_question_occurs() -> None:
    positions = Counter(
        row["article"].split(" .")[:4].index(next(s for s in row["article"].split(" .")[:4] if "today" in s))
        for row in rows("cnn_dailymail")
    )
    assert len(positions) == 4 and min(positions.values()) > ROWS / 4 * 0.8


def test_answers_lie_where_they_say() -> None:
    for row in rows("squad"):
        start, text = row["answers"]["answer_start"][0], row["answers"]["text"][0]
        assert row["context"][start : start + len(text)] == text


def test_sums_are_right() -> None:
    for row in rows("gsm8k"):
        *steps, final = row["answer"].split("\n")
        for step in steps:
            said, result = step.split("<<")[1].split(">>")[0].split("=")
            left, right = (int(number) for number in said.replace("-", "+-").split("+"))
            assert left + right == int(result)
        assert final == f"#### {result}" and int(result) >= 0
