"""Rows of the mini versions of csr_mtl, nlu_mtl and spectr9, in the columns that the hub has, and of mini_text.

As in `task_rows`: each generator takes a world and a random generator and returns one row without its
running number. Options are drawn so that no option, nor the set of them, tells which is right.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from lorafuse_bench.mini_world.judgements import judgement
from lorafuse_bench.mini_world.plain_text import Writer, joined
from lorafuse_bench.mini_world.task_rows import Row
from lorafuse_bench.mini_world.world import Event, World, english, paraphrase

LETTERS = "ABCDE"
TOPICS, CLASSES = 4, 14


def _shuffled(rng: random.Random, right: str, wrong: Sequence[str]) -> tuple[list[str], int]:
    """Options in random order and the position of the right one."""
    options = rng.sample([right, *wrong], 1 + len(wrong))
    return options, options.index(right)


def _others(rng: random.Random, words: Sequence[str], word: str, count: int) -> list[str]:
    return rng.sample([other for other in words if other != word], count)


def _lettered(question: str, options: Sequence[str], right: int, stem: str = "question") -> Row:
    """A row in the form of ARC, OpenBookQA and CommonsenseQA."""
    choices = {"text": list(options), "label": list(LETTERS[: len(options)])}
    return {stem: question, "choices": choices, "answerKey": LETTERS[right]}


def arc_c(world: World, rng: random.Random) -> Row:
    """The opposite of a quality, beside its synonym and an unrelated pair of opposites."""
    here, there = rng.sample(world.dimensions, 2)
    side = rng.randrange(2)
    asked, synonym = rng.sample(here[side], 2)
    right, other = rng.choice(here[1 - side]), [rng.choice(pole) for pole in there]
    return _lettered(f"what is unlike {asked} ?", *_shuffled(rng, right, [synonym, *other]))


def arc_e(world: World, rng: random.Random) -> Row:
    """What kind of thing a noun is."""
    noun = rng.choice(world.nouns)
    kind = world.category_of[noun]
    wrong = _others(rng, list(world.categories), kind, 3)
    name = rng.choice(world.names)
    return _lettered(f"what is the {noun} of {name} ?", *_shuffled(rng, kind, wrong))


def obqa(world: World, rng: random.Random) -> Row:
    """The tool that serves a purpose, of four."""
    purpose = rng.choice(list(world.tools))
    tool = world.tools[purpose]
    options = _shuffled(rng, tool, _others(rng, list(world.tools.values()), tool, 3))
    return _lettered(f"to {purpose} a {rng.choice(world.nouns)} one needs a", *options, stem="question_stem")


def csqa(world: World, rng: random.Random) -> Row:
    """A noun's German word, of five."""
    noun, *others = rng.sample(world.nouns, 5)
    options = _shuffled(rng, world.german[noun], [world.german[other] for other in others])
    row = _lettered(f"what is {noun} abroad ?", *options)
    return {"question_concept": noun, **row}


def boolq(world: World, rng: random.Random) -> Row:
    """A statement, and a question that it answers with yes or no."""
    while (pair := judgement(world, rng)).relation == "neutral":
        pass
    subject, claimed = pair.hypothesis.removesuffix(" .").split(" is ", 1)
    answer = pair.relation == "entailment"
    return {"question": f"is {subject} {claimed} ?", "answer": answer, "passage": pair.premise}


def siqa(world: World, rng: random.Random) -> Row:
    """Three events and where the thing of one of them was."""
    events = world.events(rng, 3)
    asked = rng.choice(events)
    options, right = _shuffled(rng, asked.place, [e.place for e in events if e is not asked])
    answers = dict(zip(("answerA", "answerB", "answerC"), options, strict=True))
    context = " ".join(english(e) for e in events)
    return {
        "context": context,
        "question": f"where was the {asked.noun} ?",
        **answers,
        "label": str(right + 1),
    }


def hellaswag(world: World, rng: random.Random) -> Row:
    """An event whose paraphrase goes on; the endings cross two qualities with two things."""
    event, other = world.events(rng, 2)
    endings = [
        f"the {world.twins[quality]} {noun} was {world.twins[event.verb]} by {event.subject} ."
        for quality in (event.adjective, other.adjective)
        for noun in (event.noun, other.noun)
    ]
    endings, right = _shuffled(rng, endings[0], endings[1:])
    context = f"{english(event)} in other words , in {event.place}"
    return {
        "activity_label": "",
        "ctx_a": context,
        "ctx_b": "",
        "ctx": context,
        "endings": endings,
        "source_id": "",
        "split": "",
        "split_type": "",
        "label": str(right),
    }


def winogrande(world: World, rng: random.Random) -> Row:
    """Two things with opposite qualities; the blank is the one that has a synonym of one of them."""
    one, two = rng.sample(world.nouns, 2)
    poles = rng.sample(rng.choice(world.dimensions), 2)
    right = rng.randrange(2)
    told, asked = zip(*(rng.sample(pole, 2) for pole in poles), strict=True)
    sentence = f"the {one} is {told[0]} and the {two} is {told[1]} , so what is {asked[right]} is the _ ."
    return {"sentence": sentence, "option1": one, "option2": two, "answer": str(right + 1)}


def cola(world: World, rng: random.Random) -> Row:
    """A sentence, or the same words with two neighbours swapped."""
    words = english(world.event(rng)).split()
    label = rng.randrange(2)
    if not label:
        first = rng.randrange(len(words) - 2)  # the full stop stays
        words[first : first + 2] = words[first + 1], words[first]
    return {"sentence": " ".join(words), "label": label}


def mrpc(world: World, rng: random.Random) -> Row:
    """A sentence and the paraphrase of it, or of one that differs in one word."""
    event = world.event(rng)
    label = rng.randrange(2)
    said = event if label else _altered(world, rng, event)
    return {"sentence1": english(event), "sentence2": paraphrase(world, said), "label": label}


def qqp(world: World, rng: random.Random) -> Row:
    """Two questions that ask the same, or of opposite qualities."""
    noun, place = rng.choice(world.nouns), rng.choice(world.places)
    dimension = rng.choice(world.dimensions)
    side, label = rng.randrange(2), rng.randrange(2)
    first = rng.choice(dimension[side])
    second = world.twins[first] if label else rng.choice(dimension[1 - side])
    return {
        "question1": f"who has a {first} {noun} in {place} ?",
        "question2": f"in {place} , who has a {second} {noun} ?",
        "label": label,
    }


def qnli(world: World, rng: random.Random) -> Row:
    """A question and a sentence that answers it, or tells of something else."""
    event, other = world.events(rng, 2)
    label = rng.randrange(2)
    asked = event if label == 0 else other
    return {"question": f"where was the {asked.noun} ?", "sentence": english(event), "label": label}


def rte(world: World, rng: random.Random) -> Row:
    """Two events, and where the thing of one of them was, or was not."""
    events = world.events(rng, 2)
    asked, label = rng.choice(events), rng.randrange(2)
    place = next(e.place for e in events if (e is asked) == (label == 0))
    told = " ".join(english(e) for e in events)
    return {"sentence1": told, "sentence2": f"the {asked.noun} was in {place} .", "label": label}


def agnews(world: World, rng: random.Random) -> Row:
    """Two events with things of two kinds; the topic is the kind of today's."""
    kinds = list(world.categories.values())[:TOPICS]
    label, other = rng.sample(range(TOPICS), 2)
    first, second = world.events(rng, 2)
    news, old = (
        replace(event, noun=rng.choice(kinds[kind])) for event, kind in ((first, label), (second, other))
    )
    told = rng.sample([f"today {english(news)}", english(old)], 2)
    return {"text": " ".join(told), "label": label}


def dbpedia(world: World, rng: random.Random) -> Row:
    """A named thing with the purpose it serves and one that it does not; the purpose is its class."""
    purposes = list(world.tools)[:CLASSES]
    label, other = rng.sample(range(CLASSES), 2)
    serves, not_so = f"is used to {purposes[label]}", f"is not used to {purposes[other]}"
    name, noun = rng.choice(world.names), rng.choice(world.nouns)
    return {
        "label": label,
        "title": f"{name} {noun}",
        "content": f" the {noun} of {name} " + " and ".join(rng.sample([serves, not_so], 2)) + " .",
    }


def text(writer: Writer, world: World, rng: random.Random) -> Row:
    """A document of the kind that the base was pre-trained on, up to one of the spans that it determines."""
    parts = joined(rng, writer(world, rng)).split("‹")
    chosen = rng.randrange(1, len(parts))
    before = "".join(parts[:chosen]).replace("›", "")
    return {"text": before.removesuffix(" "), "target": " " + parts[chosen].partition("›")[0]}


def _altered(world: World, rng: random.Random, event: Event) -> Event:
    """The event with its quality, thing or place replaced."""
    slot, words = rng.choice(
        (("adjective", world.adjectives), ("noun", world.nouns), ("place", world.places))
    )
    return replace(event, **{slot: _others(rng, words, getattr(event, slot), 1)[0]})
