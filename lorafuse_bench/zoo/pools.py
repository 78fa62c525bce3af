"""Which of a zoo's experts are meant: by name, by bank, or where the user names none. One rule for every command."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import get_args

from lorafuse_bench.errors import LorafuseError, unknown
from lorafuse_bench.zoo.entries import Bank, ExpertEntry
from lorafuse_bench.zoo.manifest import Zoo

BANKS: tuple[Bank, ...] = get_args(Bank)
MARK = "@"
"""Begins the name of a bank where experts are named."""


def named(zoo: Zoo, names: Sequence[str] | None = None) -> list[ExpertEntry]:
    """The experts that `names` mean: an expert each, or a whole bank such as `@mbc`; None is the zoo's first bank.

    Raises LorafuseError for what the zoo does not have.
    """
    if names is None:
        return _bank(zoo, zoo.banks[0]) if zoo.banks else []
    known = {entry.name: entry for entry in zoo.manifest.experts}
    found = []
    for name in names:
        if name.startswith(MARK):
            found += _bank(zoo, name.removeprefix(MARK))
        elif name in known:
            found.append(known[name])
        else:
            raise unknown("expert", name, known, f"of zoo '{zoo.name}'")
    return found


def experts_for(zoo: Zoo, tasks: Iterable[str], names: Sequence[str] | None = None) -> tuple[str, ...]:
    """Names of the experts that are fused for `tasks` (keys): those named, and of a bank those of these tasks.

    As in the papers, five experts are fused for five tasks; tasks that no expert was trained for, as those of
    oblivion, ask what fusing all of them did to the base.
    """
    wanted = set(tasks)
    chosen: list[ExpertEntry] = []
    for name in names if names is not None else [None]:
        entries = named(zoo, name if name is None else [name])
        own = [entry for entry in entries if wanted & set(entry.tasks)]
        chosen += own if own and by_bank(name) else entries
    return tuple(entry.name for entry in chosen)


def pool_name(zoo: Zoo, experts: Iterable[str]) -> str:
    """What results call these experts of a zoo: its name, and `NAME@mbc` where they are of another bank than private.

    So the same method stands on a board of its own for each bank.
    """
    names = set(experts)
    banks = {entry.bank for entry in zoo.manifest.experts if entry.name in names} - {"private"}
    return MARK.join([zoo.name, *sorted(banks)])


def untrained(zoo: Zoo, tasks: Iterable[str], names: Sequence[str] | None = None) -> str | None:
    """A word where `experts_for` takes all that there are, since none was trained for any of the tasks."""
    wanted, entries = list(tasks), named(zoo, names)
    if (
        not entries
        or (names is not None and not all(map(by_bank, names)))
        or _tasks_of(entries) & set(wanted)
    ):
        return None
    fused = ", ".join(entry.name for entry in entries)
    return f"no expert of zoo '{zoo.name}' was trained for {', '.join(wanted)}, so all are fused: {fused}"


def _tasks_of(entries: Iterable[ExpertEntry]) -> set[str]:
    return {task for entry in entries for task in entry.tasks}


def by_bank(name: str | None) -> bool:
    """Whether a name means a bank, as none at all does."""
    return name is None or name.startswith(MARK)


def _bank(zoo: Zoo, bank: str) -> list[ExpertEntry]:
    if bank not in BANKS:
        raise unknown("bank", bank, BANKS)
    found = [entry for entry in zoo.manifest.experts if entry.bank == bank]
    if not found:
        raise LorafuseError(
            f"zoo '{zoo.name}' has no bank '{bank}' (it has {', '.join(zoo.banks) or 'none'})."
            f" Train it: lorafuse train experts --bank {bank} --out {zoo.root}"
        )
    return found
