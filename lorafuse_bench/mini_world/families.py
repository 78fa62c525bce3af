"""Any number of further tasks: families of operations on one event, each a task by its parameters."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import permutations, zip_longest

from lorafuse_bench.mini_world.task_rows import Row
from lorafuse_bench.mini_world.world import Event, World, english, german

SLOTS = ("subject", "verb", "adjective", "noun", "place")
Operation = Callable[[World, Event], tuple[str, str]]


@dataclass(frozen=True)
class FamilyTask:
    """One task of a family: its key, the words of its prompt, and what maps an event to (text, target)."""

    key: str
    instruction: str
    operation: Operation

    def row(self, world: World, rng: random.Random) -> Row:
        """One row with the columns text, instruction, target."""
        text, target = self.operation(world, world.event(rng))
        return {"text": text, "instruction": self.instruction, "target": target}


def extract(slot: str, foreign: bool, world: World, event: Event) -> tuple[str, str]:
    """A sentence -> the word in one slot, in the sentence's own language."""
    word = getattr(event, slot)
    if not foreign:
        return english(event), word
    return german(world, event), world.german.get(word, word)


def translate_back(world: World, event: Event) -> tuple[str, str]:
    """German -> English."""
    return german(world, event), english(event)


def drop(slot: str, world: World, event: Event) -> tuple[str, str]:
    """A sentence -> the sentence without one of its words."""
    words = english(event).split()
    return english(event), " ".join(word for word in words if word != getattr(event, slot))


def swap(slot: str, world: World, event: Event) -> tuple[str, str]:
    """A sentence -> the sentence with one word replaced by its synonym."""
    other = replace(event, **{slot: world.twins[getattr(event, slot)]})
    return english(event), english(other)


def reorder(order: tuple[str, ...], world: World, event: Event) -> tuple[str, str]:
    """A sentence -> its content words in another order."""
    return english(event), " ".join([*(getattr(event, slot) for slot in order), "."])


def family_tasks() -> tuple[FamilyTask, ...]:
    """All family tasks in a fixed order that takes the families in turn."""
    languages = ((False, "English"), (True, "German"))
    extraction = [
        FamilyTask(
            f"extract_{slot}_{name[:2].lower()}", f"Slot {slot} in {name}", partial(extract, slot, foreign)
        )
        for slot in reversed(SLOTS)
        for foreign, name in languages
    ]
    orders = [order for order in permutations(("subject", "verb", "noun", "place")) if order[0] != "subject"]
    families = (
        extraction,
        [FamilyTask("translate_back", "Translation from German to English", translate_back)],
        [
            FamilyTask(f"drop_{slot}", f"Without {slot}", partial(drop, slot))
            for slot in ("adjective", "place", "verb")
        ],
        [
            FamilyTask(
                "order_" + "".join(slot[0] for slot in order),
                f"Order {' '.join(order)}",
                partial(reorder, order),
            )
            for order in orders
        ],
        [
            FamilyTask(f"swap_{slot}", f"Synonym of {slot}", partial(swap, slot))
            for slot in ("adjective", "verb")
        ],
    )
    return tuple(task for turn in zip_longest(*families) for task in turn if task is not None)
