"""Processes as accelerate's launcher starts them, but forked and so without seconds of imports."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable

import torch
from accelerate import PartialState


def launch(work: Callable[[int], object], processes: int = 2) -> list[int]:
    """Have every process do `work(its number)`; their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = [_started(work, rank, processes, port) for rank in range(processes)]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def _started(work: Callable[[int], object], rank: int, processes: int, port: int) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        os.environ |= {
            "LOCAL_WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        os.environ["ACCELERATE_USE_CPU"] = "true"
        PartialState._reset_state()  # what this process was before it was one of several
        work(rank)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
