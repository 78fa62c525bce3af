"""The generated world: its own words, their relations, and what sentences are made of."""

from __future__ import annotations

import os
import random
import subprocess
import sys

from lorafuse_bench.mini_world.world import Event, digest, english, german, make_world, paraphrase

WORLD = make_world(0)
EVENT = Event("ann", WORLD.verbs[0][0], WORLD.adjectives[0], WORLD.nouns[0], WORLD.places[0])


def test_no_word_has_two_meanings() -> None:
    words = [
        *WORLD.names, *WORLD.places, *WORLD.categories, *WORLD.nouns, *WORLD.twins, *WORLD.good, *WORLD.bad,
        *WORLD.aspects, *WORLD.tools, *WORLD.tools.values(), *set(WORLD.german.values()),
    ]  # fmt: skip
    assert len(words) == len(set(words))


def test_synonyms_share_their_german_word_and_nothing_else_does() -> None:
    for word, twin in WORLD.twins.items():
        assert word != twin and WORLD.twins[twin] == word and WORLD.german[word] == WORLD.german[twin]
    concepts = len(WORLD.german) - len(WORLD.twins) // 2
    assert len(set(WORLD.german.values())) == concepts


def test_a_sentence_and_its_other_forms() -> None:
    verb, adjective, noun, place = EVENT.verb, EVENT.adjective, EVENT.noun, EVENT.place
    g, twin = WORLD.german, WORLD.twins
    assert english(EVENT) == f"ann {verb} the {adjective} {noun} in {place} ."
    assert german(WORLD, EVENT) == f"ann hat in {g[place]} das {g[noun]} {g[adjective]} {g[verb]} ."
    assert paraphrase(WORLD, EVENT) == f"in {place} the {twin[adjective]} {noun} was {twin[verb]} by ann ."
    assert digest(EVENT) == f"{place} : ann {verb} {noun} ."


def test_events_told_together_share_no_word() -> None:
    events = WORLD.events(random.Random("events"), 4)
    words = [word for e in events for word in (e.subject, e.verb, e.adjective, e.noun, e.place)]
    assert len(set(words)) == 20


def test_seeds_name_worlds_whatever_the_hash_seed() -> None:
    code = (
        "import hashlib; from itertools import islice; from lorafuse_bench.mini_world.world import make_world;"
        "from lorafuse_bench.mini_world.plain_text import WRITERS, documents; w = make_world(3);"
        "texts = islice(documents(w, 'x', [(kind, 1.0) for kind in WRITERS]), 200);"
        "print(hashlib.sha256((repr(w) + ''.join(texts)).encode()).hexdigest())"
    )

    def run(hash_seed: str) -> str:
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    assert run("1") == run("2")
    assert make_world(3) != make_world(4)
