"""Rows of the mini version of or_mtl, in the columns that the hub has; see `suite_rows`.

The mini base can hardly do these: they are for seeing that the suite works and for tests.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from lorafuse_bench.mini_world.suite_rows import arc_c, arc_e, obqa
from lorafuse_bench.mini_world.task_rows import Row
from lorafuse_bench.mini_world.world import World, digest, english

SUBJECTS = (
    "abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology college_chemistry"
    " college_computer_science college_mathematics college_medicine college_physics computer_security"
    " conceptual_physics econometrics electrical_engineering elementary_mathematics formal_logic global_facts"
    " high_school_biology high_school_chemistry high_school_computer_science high_school_european_history"
    " high_school_geography high_school_government_and_politics high_school_macroeconomics"
    " high_school_mathematics high_school_microeconomics high_school_physics high_school_psychology"
    " high_school_statistics high_school_us_history high_school_world_history human_aging human_sexuality"
    " international_law jurisprudence logical_fallacies machine_learning management marketing"
    " medical_genetics miscellaneous moral_disputes moral_scenarios nutrition philosophy prehistory"
    " professional_accounting professional_law professional_medicine professional_psychology"
    " public_relations security_studies sociology us_foreign_policy virology world_religions"
).split()
"""The configurations of cais/mmlu."""


def _choice(world: World, rng: random.Random) -> tuple[str, list[str], int]:
    """A question of the world, four options and the position of the right one."""
    row = rng.choice((arc_c, arc_e, obqa))(world, rng)
    options, labels = row["choices"]["text"], row["choices"]["label"]
    return row.get("question") or row["question_stem"], options, labels.index(row["answerKey"])


def mmlu(world: World, rng: random.Random) -> Row:
    """A question with four options."""
    question, options, right = _choice(world, rng)
    return {"question": question, "subject": "", "choices": options, "answer": right}


def gpqa(world: World, rng: random.Random) -> Row:
    """A question, its answer and three wrong ones."""
    question, options, right = _choice(world, rng)
    wrong = [option for i, option in enumerate(options) if i != right]
    answers = {f"Incorrect Answer {i}": text for i, text in enumerate(wrong, start=1)}
    return {"Question": question, "Correct Answer": options[right], **answers, "Explanation": ""}


def _bbh_options(world: World, rng: random.Random) -> Row:
    question, options, right = _choice(world, rng)
    listed = "\n".join(f"({letter}) {text}" for letter, text in zip("ABCD", options, strict=True))
    return {"input": f"{question}\nOptions:\n{listed}", "target": f"({'ABCD'[right]})"}


def _bbh_boolean(world: World, rng: random.Random) -> Row:
    one, two = rng.choice((True, False)), rng.choice((True, False))
    depth = rng.randrange(12)
    value = (one and two) if depth % 2 == 0 else not (one and two)
    return {"input": f"{'not ( ' * depth}{one} and {two}{' )' * depth} is", "target": str(value)}


def _bbh_sum(world: World, rng: random.Random) -> Row:
    a, b, c = (rng.randrange(-9, 10) for _ in range(3))
    return {"input": f"(({a} + {b}) - {c}) =", "target": str(a + b - c)}


def _bbh_count(world: World, rng: random.Random) -> Row:
    nouns = rng.sample(world.nouns, rng.randrange(2, 8))
    held = ", ".join(f"a {noun}" for noun in nouns)
    return {
        "input": f"{rng.choice(world.names)} has {held}. How many things are there?",
        "target": str(len(nouns)),
    }


def _bbh_sorting(world: World, rng: random.Random) -> Row:
    words = rng.sample(world.nouns, 3)
    asked = f"Sort the following words alphabetically: List: {' '.join(words)}"
    return {"input": asked, "target": " ".join(sorted(words))}


def _bbh_brackets(world: World, rng: random.Random) -> Row:
    pairs = [rng.choice(("()", "[]", "{}", "<>")) for _ in range(rng.randrange(2, 7))]
    asked = " ".join(pair[0] for pair in pairs)
    return {
        "input": f"Complete the sequence: {asked}",
        "target": " ".join(pair[1] for pair in reversed(pairs)),
    }


def _bbh_judged(yes: str, no: str) -> Callable[[World, random.Random], Row]:
    """Whether something happened where it is claimed to have."""

    def row(world: World, rng: random.Random) -> Row:
        event, other = world.events(rng, 2)
        right = rng.random() < 0.5
        place = event.place if right else other.place
        return {
            "input": f"{english(event)} Was the {event.noun} in {place} ?",
            "target": yes if right else no,
        }

    return row


BBH = {
    **dict.fromkeys(
        "date_understanding disambiguation_qa geometric_shapes hyperbaton logical_deduction_five_objects"
        " logical_deduction_seven_objects logical_deduction_three_objects movie_recommendation"
        " penguins_in_a_table reasoning_about_colored_objects ruin_names salient_translation_error_detection"
        " snarks temporal_sequences tracking_shuffled_objects_five_objects"
        " tracking_shuffled_objects_seven_objects tracking_shuffled_objects_three_objects".split(),
        _bbh_options,
    ),
    **dict.fromkeys(("causal_judgement", "navigate", "web_of_lies"), _bbh_judged("Yes", "No")),
    "sports_understanding": _bbh_judged("yes", "no"),
    "formal_fallacies": _bbh_judged("valid", "invalid"),
    "boolean_expressions": _bbh_boolean,
    "dyck_languages": _bbh_brackets,
    "multistep_arithmetic_two": _bbh_sum,
    "object_counting": _bbh_count,
    "word_sorting": _bbh_sorting,
}
"""Configuration of BBH to a row of its form."""

ARGUMENTS = (
    "num_highlights relation num_words num_placeholders prompt_to_repeat num_bullets section_spliter"
    " num_sections capital_relation capital_frequency keywords num_paragraphs language let_relation letter"
    " let_frequency end_phrase forbidden_words keyword frequency num_sentences postscript_marker first_word"
    " nth_paragraph"
).split()
"""Arguments of IFEval's instructions, all of them columns of every instruction."""


def ifeval(world: World, rng: random.Random) -> Row:
    """An event to tell, under one to three instructions that need no language data to check."""
    event = world.event(rng)
    words, count = rng.sample(world.nouns, 2), rng.randrange(2, 9)
    known: Sequence[tuple[str, str, Row]] = (
        ("punctuation:no_comma", "use no commas", {}),
        ("keywords:existence", f"use the words {' and '.join(words)}", {"keywords": words}),
        ("keywords:forbidden_words", f"do not use the word {event.verb}", {"forbidden_words": [event.verb]}),
        ("length_constraints:number_words", f"use at least {count} words",
         {"relation": "at least", "num_words": count}),
        ("startend:quotation", "put it in double quotation marks", {}),
        ("startend:end_checker", f"end with the word {event.place}", {"end_phrase": event.place}),
    )  # fmt: skip
    chosen = rng.sample(known, rng.randrange(1, 4))
    asked = " . ".join(text for _, text, _ in chosen)
    return {
        "prompt": f"tell that {digest(event)} {asked} .",
        "instruction_id_list": [name for name, _, _ in chosen],
        "kwargs": [{**dict.fromkeys(ARGUMENTS), **given} for _, _, given in chosen],
    }


def _arithmetic(rng: random.Random) -> tuple[str, str, Callable[[int], int]]:
    """What to do with a number: in words, as an expression of x, and done."""
    by, then = rng.randrange(2, 30), rng.randrange(1, 30)
    return f"{by} times x plus {then}", f"{by} * x + {then}", lambda x: by * x + then


def humaneval(world: World, rng: random.Random) -> Row:
    """A function of one number to complete, with three checks."""
    name, (told, formula, done) = rng.choice(world.nouns), _arithmetic(rng)
    checks = "".join(f"    assert candidate({x}) == {done(x)}\n" for x in (0, 1, 5))
    return {
        "prompt": f'def {name}(x):\n    """ Return {told} . """\n',
        "canonical_solution": f"    return {formula}\n",
        "test": f"def check(candidate):\n{checks}",
        "entry_point": name,
    }


def mbpp(world: World, rng: random.Random) -> Row:
    """A function of one number to write, with three checks."""
    name, (told, formula, done) = rng.choice(world.nouns), _arithmetic(rng)
    return {
        "text": f"Write a function {name} that returns {told}.",
        "code": f"def {name}(x):\n    return {formula}",
        "test_list": [f"assert {name}({x}) == {done(x)}" for x in (0, 1, 5)],
        "test_setup_code": "",
        "challenge_test_list": [],
    }
