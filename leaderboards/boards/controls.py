"""Controls on a board: each stands beneath its method, which alone is ranked.

A control is the same method on random experts, or one LoRA that learned what the method's fit read; its label is
its method's with the option `control` more.
"""

from __future__ import annotations

from collections.abc import Sequence

from lorafuse_bench.leaderboards.boards.board import Row

OPTION = "control="


def controlled(label: str) -> str | None:
    """The label of the method that `label` is a control of; None for what is no control."""
    name, _, tail = label.partition(":")
    parts = tail.split("+")
    kept = [part for part in parts if not part.startswith(OPTION)]
    if len(kept) == len(parts):
        return None
    return f"{name}:{'+'.join(kept)}" if kept else name


def beneath(rows: Sequence[Row]) -> list[Row]:
    """The rows in their order, but each control next after its method, where that has a row."""
    labels = {row.label for row in rows}
    held: dict[str, list[Row]] = {}
    for row in rows:
        if row.control_of in labels:
            held.setdefault(str(row.control_of), []).append(row)
    return [
        each
        for row in rows
        if row.control_of not in labels
        for each in (row, *sorted(held.get(row.label, []), key=lambda control: control.label))
    ]
