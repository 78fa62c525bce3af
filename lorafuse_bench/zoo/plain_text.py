"""Plain text of the world, for pre-training: what happened, said again in every way the world allows.

A document is a string in which ‹...› marks the spans that what came before determines. Task prompts never
appear; their words do, in passing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from lorafuse_bench.zoo.judgements import claim, given_word, opinion, said, tool_choice
from lorafuse_bench.zoo.world import Event, World, digest, english, german, paraphrase

PROMPT_WORDS = (
    "Summarization Translation from English to German Context Question Answer Solution Correct Sentiment"
    " Premise Hypothesis Relationship Paraphrasing Reasoning entailment neutral contradiction negative"
    " positive"
).split()

Writer = Callable[[World, random.Random], str]


def story(world: World, rng: random.Random) -> str:
    """A few events, then some of them said again in other ways."""
    events = world.events(rng, rng.choice((1, 2, 3, 4, 4)))
    sentences = [english(e) for e in events]
    news = rng.randrange(len(events))
    sentences[news] = f"today {sentences[news]}"
    echoes = [_again(rng, rng.choice(events)) for _ in range(rng.choice((3, 4, 5)))]
    if rng.random() < 0.3:
        echoes.append(f"{rng.choice(('in short', 'the news', 'the headline'))} : ‹{digest(events[news])}›")
    return _paragraphs(rng, [" ".join(sentences), *rng.sample(echoes, len(echoes))])


def _again(rng: random.Random, e: Event) -> str:
    """One fact of an event, found by another."""
    return rng.choice(
        (
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


def _elsewhere(world: World, rng: random.Random, e: Event) -> str:
    first, rest = german(world, e).split(" ", 1)
    return f"{rng.choice(('over the river they say', 'abroad one says', 'there it is'))} : {first} ‹{rest}›"


def _reworded(world: World, rng: random.Random, e: Event) -> str:
    _, place, rest = paraphrase(world, e).split(" ", 2)
    return f"{rng.choice(('in other words', 'put otherwise', 'that is to say'))} , in {place} ‹{rest}›"


def parallel(world: World, rng: random.Random) -> str:
    """One event, abroad and in other words."""
    event = world.event(rng)
    echoes = [_elsewhere(world, rng, event), _reworded(world, rng, event)]
    rng.shuffle(echoes)
    return _paragraphs(rng, [english(event), *echoes[: rng.choice((1, 2))]])


def rhyme(world: World, rng: random.Random) -> str:
    """Words in no order that makes sense, said twice: what teaches a base to look back and copy."""
    words = rng.sample(
        [*world.names, *world.nouns, *world.adjectives, *world.places], rng.choice((6, 10, 16))
    )
    start = rng.randrange(len(words) // 2)
    return f"{' '.join(words)} . {words[start]} ‹{' '.join(words[start + 1 :])} .›"


def claims(world: World, rng: random.Random) -> str:
    """A fact and claims about it: right, wrong, or open."""
    verdicts = {"entailment": "right", "contradiction": "wrong", "neutral": "open"}
    name, given = rng.choice(world.names), given_word(world, rng)
    subject = f"the thing of {name} is"
    parts = [f"{subject} {said(world, given)} ."]
    for _ in range(rng.choice((2, 3, 4))):
        claimed, relation = claim(world, rng, given)
        way = rng.choice(
            (
                f"{subject} {claimed} . that is",
                f"it is {claimed} :",
                f"{rng.choice(world.names)} says : {subject} {claimed} . this is",
            )
        )
        parts.append(f"{way} ‹{verdicts[relation]}› .")
    return _paragraphs(rng, parts)


def views(world: World, rng: random.Random) -> str:
    """Opinions and what follows from them."""
    parts = []
    for _ in range(rng.choice((2, 3, 4))):
        words, praised = opinion(world, rng)
        name, aspect = rng.choice(world.names), rng.choice(world.aspects)
        seen = (f"{name} saw the {aspect} . it was {words} .", f"the {aspect} of {name} was {words} .")
        outcome = f"so {name} was ‹{'glad' if praised else 'sad'}› ."
        left = f"{name} ‹{'stayed' if praised else 'left'}› ."
        parts.append(f"{rng.choice(seen)} {rng.choice((outcome, left))}")
    return _paragraphs(rng, parts)


def tools(world: World, rng: random.Random) -> str:
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
    return _paragraphs(rng, parts)


def boxes(world: World, rng: random.Random) -> str:
    """Two tools in numbered boxes: where each is, and which box a purpose needs."""
    purpose, (one, two), right = tool_choice(world, rng)
    name, noun, asked = rng.choice(world.names), rng.choice(world.nouns), rng.randrange(2)
    place = rng.choice(("box", "table", "door"))
    held = f"{place} 1 : a {one} . {place} 2 : a {two} ."
    parts = [
        f"the {(one, two)[asked]} is in {place} ‹{asked + 1}› .",
        f"to {purpose} the {noun} {name} opens {place} ‹{right + 1}› .",
    ]
    if rng.random() < 0.5:
        parts.append(f"to {purpose} one needs a ‹{(one, two)[right]}› .")
    return _paragraphs(rng, [held, *rng.sample(parts, len(parts))])


def wordbook(world: World, rng: random.Random) -> str:
    """Entries of a dictionary: synonyms, opposites, kinds, translations, uses."""
    return _paragraphs(rng, [_entry(world, rng) for _ in range(6)])


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


def sums(world: World, rng: random.Random) -> str:
    """Counting with small numbers."""
    parts = []
    for _ in range(4):
        a, b = rng.randrange(1, 10), rng.randrange(1, 10)
        noun, name = rng.choice(world.nouns), rng.choice(world.names)
        total = rng.choice((f"{a} + {b} = ‹{a + b} .›", f"{a + b} - {a} = ‹{b} .›"))
        parts.append(rng.choice((total, f"{name} has {a} {noun} and gets {b} more , so it is ‹{a + b} .›")))
    return _paragraphs(rng, parts)


def scribbles(world: World, rng: random.Random) -> str:
    """The words of the prompts, out of their use."""
    words = [rng.choice(PROMPT_WORDS) for _ in range(4)]
    name, place = rng.choice(world.names), rng.choice(world.places)
    lines = (
        f"{name} wrote {words[0]} and {words[1]} on a wall in {place} .",
        f"in {place} a road is called {words[2]} .",
        f"the first letter was {words[0]} , the last {words[3]} .",
        f"who did it ? nobody knows . {words[1]}",
        f"where did {name} go ? what did {name} use ? nobody asked .",
        f"{words[3]} , said {name} .",
    )
    return _paragraphs(rng, rng.sample(lines, 3))


WRITERS: dict[str, Writer] = {
    writer.__name__: writer
    for writer in (story, rhyme, parallel, claims, views, tools, boxes, wordbook, sums, scribbles)
}


def documents(world: World, name: str, shares: Sequence[tuple[str, float]], rhymes: int = 0) -> Iterator[str]:
    """Marked documents without end, the first `rhymes` of them rhymes; another `name` gives others.

    shares: how often each kind of document comes, by the name of its writer.
    """
    rng = random.Random(f"lorafuse text {world.seed} {name}")
    kinds, weights = zip(*shares, strict=True)
    for _ in range(rhymes):
        yield rhyme(world, rng)
    while True:
        yield WRITERS[rng.choices(kinds, weights)[0]](world, rng)


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


def _paragraphs(rng: random.Random, parts: list[str]) -> str:
    """The parts on one line or on lines of their own."""
    return rng.choice((" ", "\n")).join(parts)
