"""Plain text of the world, for pre-training: what happened, said again in every way the world allows.

A document is a string in which ‹...› marks the spans that what came before determines. Task prompts never
appear; their words do, in passing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from lorafuse_bench.mini_world.judgements import Relation, claim, given_word, opinion, said, tool_choice
from lorafuse_bench.mini_world.world import Event, World, digest, english, german, paraphrase

PROMPT_WORDS = (
    "Summarization Translation from English to German Context Question Answer Solution Correct Sentiment"
    " Premise Hypothesis Relationship Paraphrasing Reasoning entailment neutral contradiction negative"
    " positive"
).split()

Writer = Callable[[World, random.Random], list[str]]
"""Writes the parts of one document, each a sentence or a few."""


def story(world: World, rng: random.Random) -> list[str]:
    """A few events, then some of them said again in other ways."""
    events = world.events(rng, rng.choice((1, 2, 3, 4, 4)))
    sentences = [english(e) for e in events]
    news = rng.randrange(len(events))
    sentences[news] = f"today {sentences[news]}"
    echoes = [_again(world, rng, rng.choice(events)) for _ in range(rng.choice((4, 6, 8)))]
    if rng.random() < 0.3:
        # No colon before it: a base that answers every colon with the headline needs no expert of summaries.
        echoes.append(f"{rng.choice(('in short', 'the news', 'the headline'))} ‹{digest(events[news])}›")
    return [" ".join(sentences), *rng.sample(echoes, len(echoes))]


def _again(world: World, rng: random.Random, e: Event) -> str:
    """One fact of an event, found by another that stands now nearer, now farther."""
    return rng.choice(
        (
            f"the {e.noun} , {_pause(world, rng)} ‹{e.place}› .",
            f"{rng.choice(world.names)} wants the {e.noun} . it is in ‹{e.place}› .",
            f"the {e.noun} {e.verb} by {e.subject} was in ‹{e.place}› .",
            f"it was {e.subject} who ‹{e.verb}› the ‹{e.noun}› .",
            f"the one who {e.verb} the {e.noun} was ‹{e.subject}› .",
            f"{e.subject} was in ‹{e.place}› .",
            f"the {e.noun} was in ‹{e.place}› .",
            f"what {e.subject} {e.verb} was the ‹{e.adjective} {e.noun}› .",
            f"the {e.noun} was {e.verb} by ‹{e.subject}› .",
            f"{e.subject} had the ‹{e.adjective} {e.noun}› .",
            f"as told , {e.subject} ‹{e.verb} the {e.adjective} {e.noun} in {e.place}› .",
        )
    )


def _pause(world: World, rng: random.Random) -> str:
    """Words of no account and a colon: an answer comes after them, however many they are."""
    return " ".join(
        [*rng.sample([*world.names, "so", "then", "well", "now"], rng.choice((0, 1, 1, 2, 3))), ":"]
    )


def _elsewhere(world: World, rng: random.Random, e: Event) -> str:
    first, rest = german(world, e).split(" ", 1)
    return f"{rng.choice(('over the river they say', 'abroad one says', 'there it is'))} : {first} ‹{rest}›"


def _reworded(world: World, rng: random.Random, e: Event) -> str:
    _, place, rest = paraphrase(world, e).split(" ", 2)
    return f"{rng.choice(('in other words', 'put otherwise', 'that is to say'))} , in {place} ‹{rest}›"


def parallel(world: World, rng: random.Random) -> list[str]:
    """One event, abroad and in other words."""
    event = world.event(rng)
    echoes = [_elsewhere(world, rng, event), _reworded(world, rng, event)]
    rng.shuffle(echoes)
    return [english(event), *echoes[: rng.choice((1, 2))]]


def rhyme(world: World, rng: random.Random) -> list[str]:
    """Words in no order that makes sense, said twice: what teaches a base to look back and copy."""
    words = rng.sample(
        [*world.names, *world.nouns, *world.adjectives, *world.places], rng.choice((6, 10, 16))
    )
    start = rng.randrange(len(words) // 2)
    return [f"{' '.join(words)} . {words[start]} ‹{' '.join(words[start + 1 :])} .›"]


VERDICTS: dict[Relation, tuple[str, str]] = {
    "entailment": ("right", "nods"),
    "contradiction": ("wrong", "frowns"),
    "neutral": ("open", "waits"),
}
"""How a claim is taken, said in two ways: a base that must write either knows the relation, not a word."""


def claims(world: World, rng: random.Random) -> list[str]:
    """A fact, what follows from it, and claims about it: right, wrong, or open."""
    # Which kind a noun is of is learnt later than which words are alike, so it is read oftener than it is asked.
    name, given = rng.choice(world.names), given_word(world, rng, noun_share=0.5)
    subject = f"the thing of {name} is"
    parts = [f"{subject} {said(world, given)} ."]
    for _ in range(rng.choice((2, 4, 6))):
        claimed, relation = claim(world, rng, given)
        verdict, nods = VERDICTS[relation]
        ways = (
            f"{subject} {claimed} . that is ‹{verdict}› .",
            f"{subject} {claimed} . {_pause(world, rng)} ‹{verdict}› .",
            f"{subject} {claimed} .\n{_pause(world, rng)} ‹{verdict}› .",
            f"it is {claimed} {_pause(world, rng)} ‹{verdict}› .",
            f"it is {claimed} : ‹{verdict}› .",
            f"{subject} {claimed} . {rng.choice(world.names)} ‹{nods}› .",
            _consequence(world, rng, given),
        )
        parts.append(rng.choice(ways))
    return parts


def _consequence(world: World, rng: random.Random, given: str) -> str:
    """What else is true of a thing that is so."""
    if given in world.category_of:
        return f"so it is a kind of ‹{world.category_of[given]}› ."
    dimension, side = world.pole_of[given]
    pole, opposite = world.dimensions[dimension][side], world.dimensions[dimension][1 - side]
    unlike = opposite[pole.index(given)]
    return rng.choice((f"so it is also ‹{world.twins[given]}› .", f"so it is far from ‹{unlike}› ."))


def views(world: World, rng: random.Random) -> list[str]:
    """Opinions and what follows from them."""
    parts = []
    for _ in range(rng.choice((2, 3, 4))):
        words, praised = opinion(world, rng)
        name, aspect = rng.choice(world.names), rng.choice(world.aspects)
        seen = (f"{name} saw the {aspect} . it was {words} .", f"the {aspect} of {name} was {words} .")
        outcome = f"so {name} was ‹{'glad' if praised else 'sad'}› ."
        left = f"{name} ‹{'stayed' if praised else 'left'}› ."
        parts.append(f"{rng.choice(seen)} {rng.choice((outcome, left))}")
    return parts


def tools(world: World, rng: random.Random) -> list[str]:
    """What serves which purpose, and choices between two tools."""
    parts = []
    for _ in range(rng.choice((2, 3))):
        purpose, (one, two), right = tool_choice(world, rng)
        name, noun = rng.choice(world.names), rng.choice(world.nouns)
        tables = f"on table 1 a {one} , on table 2 a {two} ."
        ways = (
            f"to {purpose} a {noun} one needs a ‹{(one, two)[right]}› .",
            f"box 1 : a {one} . box 2 : a {two} . to {purpose} the {noun} {name} opens box ‹{right + 1}› .",
            f"{name} had to {purpose} the {noun} . {tables} so to table ‹{right + 1}› .",
        )
        parts.append(rng.choice(ways))
    return parts


ORDINALS = ("first", "second", "third")
"""Which box it is, after a pause: a digit there would be the answer of a task, written without an expert."""


def boxes(world: World, rng: random.Random) -> list[str]:
    """A few tools in numbered boxes: where each is, and which box a purpose needs, told before or after."""
    purposes = rng.sample(list(world.tools), rng.choice((2, 2, 2, 3)))
    place = rng.choice(("box", "table", "door"))
    tell = rng.choice(
        (
            f"{place} {{number}} : a {{tool}} .",
            f"{place} {{number}} :\na {{tool}} .",
            f"{place} {{number}} a {{tool}} .",
            f"in {place} {{number}} is a {{tool}} .",
        )
    )
    held = [tell.format(number=number, tool=world.tools[p]) for number, p in enumerate(purposes, 1)]
    parts = []
    for number, (purpose, ordinal) in enumerate(zip(purposes, ORDINALS, strict=False), 1):
        name, noun, tool = rng.choice(world.names), rng.choice(world.nouns), world.tools[purpose]
        where = (f"the {tool} is in {place} ‹{number}› .", f"the {tool} , {_pause(world, rng)} ‹{ordinal}› .")
        which = (
            f"to {purpose} the {noun} {name} opens {place} ‹{number}› .",
            f"to {purpose} the {noun} , {_pause(world, rng)} ‹{ordinal}› .",
            f"{name} had to {purpose} the {noun} . so to {place} ‹{number}› .",
        )
        parts += [rng.choice(where), rng.choice(which)]
    if rng.random() < 0.5:
        return [*held, *rng.sample(parts, len(parts))]
    number = rng.randrange(len(purposes))
    name, noun, purpose = rng.choice(world.names), rng.choice(world.nouns), purposes[number]
    told = rng.choice(
        (f"to {purpose} the {noun} {name} looks around .", f"{name} had to {purpose} the {noun} .")
    )
    found = rng.choice((f"so to {place} ‹{number + 1}› .", f"{_pause(world, rng)} ‹{ORDINALS[number]}› ."))
    return [told, *held, found, f"there is the ‹{world.tools[purpose]}› ."]


def wordbook(world: World, rng: random.Random) -> list[str]:
    """Entries of a dictionary: synonyms, opposites, kinds, translations, uses."""
    return [_entry(world, rng) for _ in range(6)]


def _entry(world: World, rng: random.Random) -> str:
    dimension = rng.choice(world.dimensions)
    side, which = rng.randrange(2), rng.randrange(2)
    word = dimension[side][which]
    kind = rng.choice(list(world.categories))
    verb = rng.choice(rng.choice(world.verbs))
    known = rng.choice(list(world.german))
    purpose = rng.choice(list(world.tools))
    praised = rng.random() < 0.5
    word_of_view = rng.choice(world.good if praised else world.bad)
    return rng.choice(
        (
            f"{word} is like ‹{dimension[side][1 - which]}› .",
            f"{word} is unlike ‹{dimension[1 - side][which]}› .",
            f"a {rng.choice(world.categories[kind])} is a ‹{kind}› .",
            f"{verb} is like ‹{world.twins[verb]}› .",
            f"{known} is abroad ‹{world.german[known]}› .",
            f"to {purpose} one needs a ‹{world.tools[purpose]}› .",
            f"what is {word_of_view} is ‹{'good' if praised else 'poor'}› .",
        )
    )


def sums(world: World, rng: random.Random) -> list[str]:
    """Counting with small numbers."""
    parts = []
    for _ in range(4):
        a, b = rng.randrange(1, 10), rng.randrange(1, 10)
        noun, name = rng.choice(world.nouns), rng.choice(world.names)
        total = rng.choice((f"{a} + {b} = ‹{a + b} .›", f"{a + b} - {a} = ‹{b} .›"))
        parts.append(rng.choice((total, f"{name} has {a} {noun} and gets {b} more , so it is ‹{a + b} .›")))
    return parts


def scribbles(world: World, rng: random.Random) -> list[str]:
    """The words of the prompts, out of their use."""
    return [scribble(world, rng) for _ in range(3)]


def scribble(world: World, rng: random.Random) -> str:
    """One line that tells nothing."""
    one, two = rng.sample(PROMPT_WORDS, 2)
    name, place = rng.choice(world.names), rng.choice(world.places)
    return rng.choice(
        (
            f"{name} wrote {one} and {two} on a wall in {place} .",
            f"in {place} a road is called {one} .",
            f"the first letter was {one} , the last {two} .",
            f"who did it ? nobody knows . {one}",
            f"where did {name} go ? what did {name} use ? nobody asked .",
            f"{one} , said {name} .",
        )
    )


WRITERS: dict[str, Writer] = {
    writer.__name__: writer
    for writer in (story, rhyme, parallel, claims, views, tools, boxes, wordbook, sums, scribbles)
}


def documents(
    world: World, name: str, shares: Sequence[tuple[str, float]], rhymes: int = 0, asides: float = 0.0
) -> Iterator[str]:
    """Marked documents without end, the first `rhymes` of them rhymes; another `name` gives others.

    shares: how often each kind of document comes, by the name of its writer. asides: how often words of no
    account come before a part of a document.
    """
    rng = random.Random(f"lorafuse text {world.seed} {name}")
    kinds, weights = zip(*shares, strict=True)
    for _ in range(rhymes):
        yield joined(rng, rhyme(world, rng))
    while True:
        parts = WRITERS[rng.choices(kinds, weights)[0]](world, rng)
        yield joined(rng, [piece for part in parts for piece in (*_aside(world, rng, asides), part)])


def joined(rng: random.Random, parts: Sequence[str]) -> str:
    """The parts on one line or on lines of their own."""
    return rng.choice((" ", "\n")).join(parts)


def _aside(world: World, rng: random.Random, share: float) -> tuple[str, ...]:
    """Now and then words of no account: what was said matters, not how far back."""
    return (rng.choice((_pause, _pause, scribble))(world, rng),) if rng.random() < share else ()


def unmarked(document: str) -> tuple[str, list[bool]]:
    """(the text without marks, for each of its characters whether it is determined)."""
    text, determined, inside = [], [], False
    for character in document:
        if character in "‹›":
            inside = character == "‹"
        else:
            text.append(character)
            determined.append(inside)
    return "".join(text), determined
