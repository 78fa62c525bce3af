"""Plain text for pre-training: marks, and that no task prompt is in it."""

from __future__ import annotations

from itertools import islice

from lorafuse_bench.mini_world.plain_text import (
    ORDINALS,
    PROMPT_WORDS,
    VERDICTS,
    WRITERS,
    documents,
    unmarked,
)
from lorafuse_bench.mini_world.settings import BASE
from lorafuse_bench.mini_world.world import make_world

SHARES = tuple((name, 1.0) for name in WRITERS)
TEXTS = [
    unmarked(document)[0] for document in islice(documents(make_world(0), "test", SHARES, asides=0.25), 4000)
]


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


def test_asides_move_what_was_said_and_determine_nothing() -> None:
    """With and without them the same spans are marked, farther apart."""
    world, claims = make_world(0), (("claims", 1.0),)
    plain, aside = (
        "".join(islice(documents(world, "test", claims, asides=share), 300)) for share in (0.0, 1.0)
    )
    assert len(aside) > 1.3 * len(plain)
    assert abs(aside.count("‹") / plain.count("‹") - 1) < 0.1
    verdicts = {span.split("›")[0] for span in aside.split("‹")[1:]}
    known = {*world.pole_of, *world.categories}
    assert verdicts - known == {word for words in VERDICTS.values() for word in words}


def test_a_number_is_told_before_its_tool_and_asked_after_it() -> None:
    """Else a tool could be found by what follows it, which the task about tools never shows."""
    for document in islice(documents(make_world(0), "test", (("boxes", 1.0),)), 200):
        text = unmarked(document)[0]
        numbers = [text.index(f" {number}") for number in (1, 2)]
        tools = sorted(
            text.index(f"a {tool} .") for tool in make_world(0).tools.values() if f"a {tool} ." in text
        )
        assert numbers[0] < tools[0] < numbers[1] < tools[1]


def test_no_answer_of_a_task_follows_a_colon() -> None:
    """Prompts end in one: a base that writes headlines and numbers after colons would need no expert for them."""
    story, boxes = (
        "".join(islice(documents(make_world(0), "test", ((kind, 1.0),), asides=0.25), 1000))
        for kind in ("story", "boxes")
    )
    assert [line for line in ("in short :", "the news :", "the headline :") if line in story] == []
    after_colons = {span.split("›")[0] for span in boxes.split(": ‹")[1:]}
    assert after_colons == set(ORDINALS)
