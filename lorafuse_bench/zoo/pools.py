"""Which of a zoo's experts are fused where the user names none: one rule for every command."""

from __future__ import annotations

from collections.abc import Iterable

from lorafuse_bench.zoo.manifest import Zoo


def experts_for(zoo: Zoo, tasks: Iterable[str]) -> tuple[str, ...]:
    """Names of the experts trained on one of `tasks` (keys), in the zoo's order; of all where there is none.

    As in the papers, five experts are fused for five tasks; tasks that no expert was trained for, as those of
    oblivion, ask what fusing all of them did to the base.
    """
    wanted = set(tasks)
    entries = zoo.manifest.experts
    own = tuple(entry.name for entry in entries if wanted & set(entry.tasks))
    return own or tuple(entry.name for entry in entries)
