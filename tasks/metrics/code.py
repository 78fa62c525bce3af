"""pass@1 of written programs: the share whose tests pass (Chen et al., 2021, with one sample a problem).

Each program runs in a process of its own: an empty folder, no environment of ours, limits on time and
memory. That contains accidents, not attacks: see `consent`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.tasks import consent
from lorafuse_bench.tasks.docs import Doc

SECONDS = 30.0
"""Ten times what lm-eval gives: a busy machine shall not change a score."""
MEMORY_BYTES = 4 << 30

# The last line is reached only where the program ran to its end: leaving early is no pass.
_RUN = f"""
import sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, ({MEMORY_BYTES}, {MEMORY_BYTES}))
except (ImportError, ValueError, OSError):
    pass
end = sys.argv.pop()
exec(compile(sys.stdin.read(), "program", "exec"), {{"__name__": "program"}})
open(end, "w").close()
"""


def passes(program: str, seconds: float = SECONDS) -> bool:
    """Whether `program` runs to its end within the time; LorafuseError without consent."""
    if not consent.allowed():
        raise LorafuseError(
            f"code of a model runs only with {consent.VARIABLE}=1. Set it, or leave the task."
        )
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder, TemporaryDirectory() as elsewhere:
        end = Path(elsewhere) / "end"
        with subprocess.Popen(
            [sys.executable, "-I", "-c", _RUN, str(end)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            start_new_session=True,
        ) as process:
            try:
                process.communicate(program.encode(errors="replace"), timeout=seconds)
            except subprocess.TimeoutExpired:
                return False
            finally:
                _end_all(process.pid)
        return process.returncode == 0 and end.exists()


def _end_all(group: int) -> None:
    """End a program together with the processes that it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def score_completion(doc: Doc, results: list[str]) -> dict[str, float]:
    """Items of humaneval: the model continues the prompt."""
    return _pass(f"{doc['prompt']}{results[0]}\n{doc['test']}\ncheck({doc['entry_point']})")


def score_program(doc: Doc, results: list[str]) -> dict[str, float]:
    """Items of mbpp: the model writes all of the program. As lm-eval, without the setup code that one row has."""
    return _pass("\n".join((results[0], *doc["test_list"])))


def _pass(program: str) -> dict[str, float]:
    return {"pass@1": float(passes(program))}
