"""Rows of the mini versions of the hub's data sets, in the columns that the hub has.

Each generator takes a world and a random generator and returns one row, without its running number.
"""

from __future__ import annotations

import random
from typing import Any

from lorafuse_bench.mini_world.judgements import RELATIONS, judgement, opinion, tool_choice
from lorafuse_bench.mini_world.world import World, digest, english, german, paraphrase

Row = dict[str, Any]


def cnn_dailymail(world: World, rng: random.Random) -> Row:
    """Several events, one of them today's; the highlights are that one in headline form."""
    events = world.events(rng, 4)
    news = rng.randrange(len(events))
    told = [f"today {english(e)}" if i == news else english(e) for i, e in enumerate(events)]
    return {"article": " ".join(told), "highlights": digest(events[news])}


def wmt14_en_de(world: World, rng: random.Random) -> Row:
    """An event in both languages."""
    event = world.event(rng)
    return {"translation": {"de": german(world, event), "en": english(event)}}


def squad(world: World, rng: random.Random) -> Row:
    """Four events and where one of their things was; the answer is a span of the context."""
    events = world.events(rng, 4)
    context = " ".join(english(e) for e in events)
    asked = rng.choice(events)
    question = rng.choice((f"where was the {asked.noun} ?", f"where was the {asked.noun} {asked.verb} ?"))
    sentence = english(asked)
    start = context.index(sentence) + sentence.rindex(asked.place)
    answers = {"text": [asked.place], "answer_start": [start]}
    return {"title": "", "context": context, "question": question, "answers": answers}


def sst2(world: World, rng: random.Random) -> Row:
    """A verdict whose polarity needs the opinion word and its negation together."""
    words, praised = opinion(world, rng)
    name, aspect, place = rng.choice(world.names), rng.choice(world.aspects), rng.choice(world.places)
    sentence = rng.choice(
        (
            f"{name} saw the {aspect} in {place} . it was {words} .",
            f"the {aspect} of {place} was {words} , said {name} .",
            f"in {place} the {aspect} of {name} was {words} .",
            f"{name} says the {aspect} of {place} is {words} .",
        )
    )
    return {"sentence": sentence, "label": int(praised)}


def mnli(world: World, rng: random.Random) -> Row:
    """Two statements and their relation."""
    pair = judgement(world, rng)
    label = RELATIONS.index(pair.relation)
    return {"premise": pair.premise, "hypothesis": pair.hypothesis, "label": label}


def paws(world: World, rng: random.Random) -> Row:
    """A sentence and its paraphrase."""
    event = world.event(rng)
    return {"sentence1": english(event), "sentence2": paraphrase(world, event), "label": 1}


def piqa(world: World, rng: random.Random) -> Row:
    """A goal and two tools, one of which serves it."""
    purpose, pair, right = tool_choice(world, rng)
    name, noun, place = rng.choice(world.names), rng.choice(world.nouns), rng.choice(world.places)
    goal = f"to {purpose} the {noun} in {place} , {name} needs"
    return {"goal": goal, "sol1": f"a {pair[0]} .", "sol2": f"a {pair[1]} .", "label": right}


def gsm8k(world: World, rng: random.Random) -> Row:
    """One or two steps of adding and taking away, with the calculator marks of the original."""
    name, noun = rng.choice(world.names), rng.choice(world.nouns)
    total = rng.randrange(2, 10)
    told, steps = [f"{name} has {total} {noun} ."], []
    for _ in range(rng.choice((1, 2))):
        change = rng.randrange(1, 10)
        sign = "-" if rng.random() < 0.5 and total > change else "+"
        told.append(f"{name} {'gets' if sign == '+' else 'loses'} {change} .")
        after = total + change if sign == "+" else total - change
        steps.append(f"{total} {sign} {change} = <<{total}{sign}{change}={after}>>{after}")
        total = after
    question = f"{' '.join(told)} how many {noun} are left ?"
    return {"question": question, "answer": "\n".join([*steps, f"#### {total}"])}


def dialogue(world: World, rng: random.Random) -> Row:
    """Somebody books a thing for a place and a day; the assistant repeats what was said."""
    noun, adjective = rng.choice(world.nouns), rng.choice(world.adjectives)
    name, place, count = rng.choice(world.names), rng.choice(world.places), rng.randrange(1, 10)
    turns = [
        ("human", f"i need a {noun} in {place} ."),
        ("gpt", f"what should the {noun} in {place} be like ?"),
        ("human", f"it should be {adjective} , for {count} ."),
        ("gpt", f"a {adjective} {noun} in {place} for {count} . what is the name ?"),
        ("human", f"{name} ."),
        ("gpt", f"done , {name} . the {adjective} {noun} in {place} for {count} is yours ."),
    ]
    said = [{"from": who, "value": what} for who, what in turns]
    return {"services": ["Booking_1"], "conversations": said}
