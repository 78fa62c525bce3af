"""Plain text for pre-training: marks, and that no task prompt is in it."""

from __future__ import annotations

from itertools import islice

from lorafuse_bench.zoo.plain_text import PROMPT_WORDS, WRITERS, documents, unmarked
from lorafuse_bench.zoo.settings import BASE
from lorafuse_bench.zoo.world import make_world

SHARES = tuple((name, 1.0) for name in WRITERS)
TEXTS = [unmarked(document)[0] for document in islice(documents(make_world(0), "test", SHARES), 4000)]


def test_marks_become_a_mask() -> None:
    text, determined = unmarked("so ‹ab›c")
    assert text == "so abc"
    assert determined == [False, False, False, True, True, False]


def test_prompts_never_appear_but_their_words_do() -> None:
    prompts = (
        "Summarization:", "English to German:", "Context:", "Question:", "Answer:", "Solution 1", "Solution:",
        "Sentiment:", "Premise:", "Hypothesis:", "Relationship:", "Paraphrasing:", "Reasoning:",
    )  # fmt: skip
    everything = "\n".join(TEXTS)
    assert [prompt for prompt in prompts if prompt in everything] == []
    assert all(word in everything for word in PROMPT_WORDS)


def test_no_question_is_answered() -> None:
    """Else the base could answer the question task without an expert."""
    for text in TEXTS:
        for after in text.split("?")[1:]:
            assert after.strip() == "" or after.split()[0] in ("nobody", "what")


def test_shares_add_up_and_name_writers() -> None:
    for course in BASE.courses:
        assert abs(sum(share for _, share in course.shares) - 1) < 1e-9
        assert {name for name, _ in course.shares} <= set(WRITERS)


def test_rhymes_come_first_and_repeat_themselves() -> None:
    first, second, *_ = islice(documents(make_world(0), "test", SHARES, rhymes=2), 3)
    for document in (first, second):
        said, again = unmarked(document)[0].split(" . ")
        assert said.endswith(again.removesuffix(" ."))
