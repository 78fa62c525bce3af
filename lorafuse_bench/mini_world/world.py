"""The generated world: who and what exists in it, how its words relate, and how facts are said.

Everything is drawn from one string-seeded generator, so a seed names a world on every machine. Function
words are English; content words are invented, so that nothing is known but what the world's text says.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property

from lorafuse_bench.mini_world.lexicon import ENGLISH, GERMAN, WordMaker

NAMES, PLACES, CATEGORIES, NOUNS_EACH, DIMENSIONS, VERBS = 20, 10, 5, 6, 8, 10
OPINIONS, ASPECTS, PURPOSES = 10, 8, 16


@dataclass(frozen=True)
class Event:
    """Somebody did something to a thing somewhere; adjective and verb are their first synonym."""

    subject: str
    verb: str
    adjective: str
    noun: str
    place: str


@dataclass(frozen=True)
class World:
    """The vocabulary of one world and its relations."""

    seed: int
    names: tuple[str, ...]
    places: tuple[str, ...]
    categories: dict[str, tuple[str, ...]]
    """Hypernym -> its nouns."""
    dimensions: tuple[tuple[tuple[str, str], tuple[str, str]], ...]
    """Opposite poles; each pole is a pair of synonyms."""
    verbs: tuple[tuple[str, str], ...]
    """Past forms, as pairs of synonyms; active and passive share the form."""
    good: tuple[str, ...]
    bad: tuple[str, ...]
    aspects: tuple[str, ...]
    """Things that one has an opinion about."""
    tools: dict[str, str]
    """Purpose (a verb) -> the one tool that serves it."""
    german: dict[str, str]
    """Word -> German word; synonyms share one."""

    @cached_property
    def nouns(self) -> tuple[str, ...]:
        return tuple(self.category_of)

    @cached_property
    def category_of(self) -> dict[str, str]:
        """Noun -> hypernym."""
        return {noun: category for category, nouns in self.categories.items() for noun in nouns}

    @cached_property
    def adjectives(self) -> tuple[str, ...]:
        """First synonyms of all poles."""
        return tuple(pole[0] for dimension in self.dimensions for pole in dimension)

    @cached_property
    def pole_of(self) -> dict[str, tuple[int, int]]:
        """Adjective -> (dimension, side)."""
        places = ((d, side) for d in range(len(self.dimensions)) for side in (0, 1))
        return {word: (d, side) for d, side in places for word in self.dimensions[d][side]}

    @cached_property
    def twins(self) -> dict[str, str]:
        """Adjective or verb -> its synonym, both ways."""
        pairs = [pole for dimension in self.dimensions for pole in dimension] + list(self.verbs)
        return {a: b for pair in pairs for a, b in (pair, pair[::-1])}

    def event(self, rng: random.Random) -> Event:
        """A random event."""
        return Event(
            rng.choice(self.names),
            rng.choice(self.verbs)[0],
            rng.choice(self.adjectives),
            rng.choice(self.nouns),
            rng.choice(self.places),
        )

    def events(self, rng: random.Random, count: int) -> list[Event]:
        """`count` events that share no word, so that each can be asked about."""
        columns = (self.names, [v[0] for v in self.verbs], self.adjectives, self.nouns, self.places)
        return [Event(*row) for row in zip(*(rng.sample(list(c), count) for c in columns), strict=True)]


def make_world(seed: int) -> World:
    """The world of a seed."""
    maker = WordMaker(random.Random(f"lorafuse world {seed}"))
    english = [maker.words(n, ENGLISH) for n in (NAMES, PLACES, CATEGORIES, OPINIONS, OPINIONS, ASPECTS)]
    names, places, kinds, good, bad, aspects = english
    categories = {kind: maker.words(NOUNS_EACH, ENGLISH) for kind in kinds}
    poles = [(maker.word(ENGLISH), maker.word(ENGLISH)) for _ in range(2 * DIMENSIONS)]
    verbs = tuple((maker.word(ENGLISH, suffix="ed"), maker.word(ENGLISH, suffix="ed")) for _ in range(VERBS))
    purposes, tools = maker.words(PURPOSES, ENGLISH), maker.words(PURPOSES, ENGLISH)
    german = {word: maker.word(GERMAN) for group in (places, *categories.values()) for word in group}
    german |= {word: german_word for pole in poles for german_word in [maker.word(GERMAN)] for word in pole}
    for pair in verbs:
        german |= dict.fromkeys(pair, maker.word(GERMAN, prefix="ge"))
    return World(
        seed=seed,
        names=names,
        places=places,
        categories=categories,
        dimensions=tuple(zip(poles[::2], poles[1::2], strict=True)),
        verbs=verbs,
        good=good,
        bad=bad,
        aspects=aspects,
        tools=dict(zip(purposes, tools, strict=True)),
        german=german,
    )


def english(event: Event) -> str:
    """The plain sentence."""
    e = event
    return f"{e.subject} {e.verb} the {e.adjective} {e.noun} in {e.place} ."


def german(world: World, event: Event) -> str:
    """The German sentence: place early, adjective after its noun, verb last."""
    g, e = world.german, event
    return f"{e.subject} hat in {g[e.place]} das {g[e.noun]} {g[e.adjective]} {g[e.verb]} ."


def paraphrase(world: World, event: Event) -> str:
    """The passive sentence with every adjective and verb replaced by its synonym."""
    twin, e = world.twins, event
    return f"in {e.place} the {twin[e.adjective]} {e.noun} was {twin[e.verb]} by {e.subject} ."


def digest(event: Event) -> str:
    """The short form: dateline, who, what."""
    e = event
    return f"{e.place} : {e.subject} {e.verb} {e.noun} ."
