"""What `lorafuse run --plan` answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorafuse_bench.cli._answers import Answer, counted

if TYPE_CHECKING:
    from lorafuse_bench.runner import Plan
    from lorafuse_bench.runner.outlook import Outlook


def answer(plan: Plan, workers: int) -> Answer:
    """The plan's cells with the time that is left, for so many workers."""
    from lorafuse_bench import runner
    from lorafuse_bench.runner.outlook import seconds_until_done

    said: list[str] = []
    found = runner.outlooks(runner.Grid.of(plan, said.append))
    cells = [
        {
            "suite": each.cell.suite,
            "method": each.cell.method.label(),
            "path": str(each.cell.path),
            "done": each.reason is None,
            "reason": each.reason,
            "seconds": each.seconds,
            "peak_bytes": each.peak_bytes,
        }
        for each in found
    ]
    left = [each.seconds for each in found if each.reason]
    known = [seconds for seconds in left if seconds is not None]
    seconds = seconds_until_done(known, workers) if known else None
    data = {"cells": cells, "left_out": said, "workers": workers, "seconds_left": seconds}
    return Answer(data, _shown(found, said, seconds, len(left), len(left) - len(known)))


def _shown(
    found: list[Outlook], said: list[str], seconds: float | None, left: int, unknown: int
) -> tuple[object, ...]:
    from lorafuse_bench.progress import duration
    from lorafuse_bench.tables import Table, cell

    rows = [
        (
            each.cell.suite,
            each.cell.method.label(),
            each.reason or "done",
            cell(None) if each.seconds is None else duration(each.seconds),
            cell(None if each.peak_bytes is None else each.peak_bytes / 1e6),
        )
        for each in found
    ]
    total = f"{counted(len(found), 'cell')}, {len(found) - left} done"
    if seconds is not None:
        total += f", about {duration(seconds)} left"
    if unknown:
        total += f"; nothing like {unknown} of them was measured in this folder"
    return Table(["suite", "method", "state", "time", "MB at most"], rows, words=(0, 1, 2), notes=said), total
