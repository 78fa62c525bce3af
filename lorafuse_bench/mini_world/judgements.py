"""Pairs of statements whose relation the world decides: same, opposite, kind of, or nothing said."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from lorafuse_bench.mini_world.world import World

Relation = Literal["entailment", "neutral", "contradiction"]
RELATIONS: tuple[Relation, ...] = ("entailment", "neutral", "contradiction")


NOUN_SHARE = 0.3
"""How often a statement is about a kind of thing instead of a quality."""


@dataclass(frozen=True)
class Judgement:
    """What is given, what is claimed, and how the two relate."""

    premise: str
    hypothesis: str
    relation: Relation


def judgement(world: World, rng: random.Random) -> Judgement:
    """Two statements about one thing."""
    given = given_word(world, rng)
    claimed, relation = claim(world, rng, given)
    subject = f"the thing of {rng.choice(world.names)} is"
    return Judgement(f"{subject} {said(world, given)} .", f"{subject} {claimed} .", relation)


def given_word(world: World, rng: random.Random, noun_share: float = NOUN_SHARE) -> str:
    """What is given of a thing: a noun or an adjective."""
    return rng.choice(world.nouns if rng.random() < noun_share else list(world.pole_of))


def said(world: World, word: str) -> str:
    """A noun with its article, an adjective without."""
    return word if word in world.pole_of else f"a {word}"


def claim(world: World, rng: random.Random, given: str) -> tuple[str, Relation]:
    """Words claimed of a thing of which `given` is known, and how the claim relates to that.

    The relation is drawn first, and qualities and kinds are claimed equally often under every relation, so
    the claim alone tells nothing.
    """
    relation = rng.choice(RELATIONS)
    make = _of_quality if given in world.pole_of else _of_kind
    return said(world, make(world, rng, given, relation)), relation


def _of_quality(world: World, rng: random.Random, given: str, relation: Relation) -> str:
    """A word that relates so to an adjective."""
    dimension, side = world.pole_of[given]
    if relation == "entailment":
        return rng.choice(world.dimensions[dimension][side])
    if relation == "contradiction":
        return rng.choice(world.dimensions[dimension][1 - side])
    # Categories are claimed as often here as of the nouns, where only neutral claims name a quality.
    if rng.random() < NOUN_SHARE / (1 - NOUN_SHARE):
        return rng.choice(list(world.categories))
    return rng.choice([word for word, (other, _) in world.pole_of.items() if other != dimension])


def _of_kind(world: World, rng: random.Random, given: str, relation: Relation) -> str:
    """A word that relates so to a noun."""
    if relation == "neutral":
        return rng.choice(list(world.pole_of))
    own = world.category_of[given]
    return own if relation == "entailment" else rng.choice([c for c in world.categories if c != own])


NEGATIONS = ("not", "never", "hardly")
EMPHASES = ("truly", "very", "quite")


def opinion(world: World, rng: random.Random) -> tuple[str, bool]:
    """(words of a verdict such as `not dull`, whether it praises); neither word alone tells."""
    praised, negated = rng.random() < 0.5, rng.random() < 0.5
    word = rng.choice(world.good if praised != negated else world.bad)
    return f"{rng.choice(NEGATIONS if negated else EMPHASES)} {word}", praised


def tool_choice(world: World, rng: random.Random) -> tuple[str, tuple[str, str], int]:
    """(purpose, two tools, which of them serves it: 0 or 1); every tool is right as often as wrong."""
    purpose = rng.choice(list(world.tools))
    right = world.tools[purpose]
    wrong = rng.choice([tool for tool in world.tools.values() if tool != right])
    place = rng.randrange(2)
    return purpose, (right, wrong) if place == 0 else (wrong, right), place
