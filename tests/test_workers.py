"""Processes that share work end with the command."""

from __future__ import annotations

import time
from contextlib import suppress

from lorafuse_bench.workers import sharing


def test_processes_end_at_once_where_the_command_is_interrupted() -> None:
    since = time.monotonic()
    with suppress(KeyboardInterrupt), sharing(1) as pool:
        runs = [pool.submit(time.sleep, 600) for _ in range(3)]
        raise KeyboardInterrupt
    assert time.monotonic() - since < 60
    assert all(run.done() for run in runs)
