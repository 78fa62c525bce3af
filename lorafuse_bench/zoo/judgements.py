"""Pairs of statements whose relation the world decides: same, opposite, kind of, or nothing said."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from lorafuse_bench.zoo.world import World

Relation = Literal["entailment", "neutral", "contradiction"]
RELATIONS: tuple[Relation, ...] = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True)
class Judgement:
    """What is given, what is claimed, and how the two relate."""

    premise: str
    hypothesis: str
    relation: Relation


def judgement(world: World, rng: random.Random) -> Judgement:
    """A claim drawn first and a relation drawn independently of it, then a premise that makes it so.

    Hence the claim alone, negation included, says nothing about the relation.
    """
    relation, negated = rng.choice(RELATIONS), rng.random() < 0.5
    flipped: dict[Relation, Relation] = {"entailment": "contradiction", "contradiction": "entailment"}
    underlying = flipped.get(relation, relation) if negated else relation
    make = _quality if rng.random() < 0.7 else _kind
    given, claimed = make(world, rng, underlying)
    subject = f"the thing of {rng.choice(world.names)} is"
    return Judgement(f"{subject} {given} .", f"{subject} {'not ' if negated else ''}{claimed} .", relation)


def _quality(world: World, rng: random.Random, relation: Relation) -> tuple[str, str]:
    """(given, claimed) where an adjective is claimed."""
    index, side = rng.randrange(len(world.dimensions)), rng.randrange(2)
    poles = world.dimensions[index]
    claimed = rng.choice(poles[side])
    if relation == "neutral":
        return _unrelated(world, rng, index), claimed
    return rng.choice(poles[side if relation == "entailment" else 1 - side]), claimed


def _unrelated(world: World, rng: random.Random, index: int) -> str:
    """An adjective of another dimension, or a kind of thing."""
    if rng.random() < 0.3:
        return f"a {rng.choice(world.nouns)}"
    others = [d for i, d in enumerate(world.dimensions) if i != index]
    return rng.choice(rng.choice(rng.choice(others)))


def _kind(world: World, rng: random.Random, relation: Relation) -> tuple[str, str]:
    """(given, claimed) where a category is claimed."""
    claimed = rng.choice(list(world.categories))
    if relation == "neutral":
        return rng.choice(rng.choice(rng.choice(world.dimensions))), f"a {claimed}"
    if relation == "entailment":
        return f"a {rng.choice(world.categories[claimed])}", f"a {claimed}"
    others = [kind for kind in world.categories if kind != claimed]
    return f"a {rng.choice(world.categories[rng.choice(others)])}", f"a {claimed}"


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
