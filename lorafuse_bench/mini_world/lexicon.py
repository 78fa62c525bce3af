"""Invented words: pronounceable, unlike each other, the same for the same seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

# English words with a job in the world's grammar or in a prompt: an invented word must not be one.
RESERVED = frozenset(
    "a an the is was of in to for and or not so it by that this has had one who what where did do use"
    " he she his her on at as if but no yes with from than then word man sun red big bad".split()
)


@dataclass(frozen=True)
class Sounds:
    """The building blocks of one language's words."""

    onsets: tuple[str, ...]
    vowels: tuple[str, ...]
    codas: tuple[str, ...]


ENGLISH = Sounds(
    onsets=tuple("b bl br d dr f fl g gr h j k kl l m n p pl pr r s sk sl sn sp st t tr v w z".split()),
    vowels=tuple("a e i o u ai oa ee oo".split()),
    codas=tuple("b d g k l m n p r t lt nd nk rd rn sk st x".split()),
)
GERMAN = Sounds(
    onsets=tuple("b d f fr g gl h k kn l m n pf qu r sch schl schw st str t tr w z zw".split()),
    vowels=tuple("a ä e ei eu i ie o ö u ü au".split()),
    codas=tuple("ch cht ck f ft ld lz mpf n nz rk rz ss tz t lk rg".split()),
)


@dataclass
class WordMaker:
    """Draws words that were never drawn before; one instance serves a whole world."""

    rng: random.Random
    taken: set[str] = field(default_factory=lambda: set(RESERVED))

    def word(self, sounds: Sounds, prefix: str = "", suffix: str = "") -> str:
        """One new word `prefix + syllable + suffix`."""
        while True:
            parts = (self.rng.choice(group) for group in (sounds.onsets, sounds.vowels, sounds.codas))
            word = prefix + "".join(parts) + suffix
            if word not in self.taken:
                self.taken.add(word)
                return word

    def words(self, count: int, sounds: Sounds, prefix: str = "", suffix: str = "") -> tuple[str, ...]:
        """`count` new words."""
        return tuple(self.word(sounds, prefix, suffix) for _ in range(count))
