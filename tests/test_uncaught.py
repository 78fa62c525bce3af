"""In the stock lm_eval command, our errors end in one line and exit code 2; elsewhere in a traceback."""

import subprocess
import sys

import pytest

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.uncaught import one_line

SCRIPT = """
import lm_eval.models
from lorafuse_bench.errors import LorafuseError
raise {error}
"""


def run(path, error):
    path.parent.mkdir(exist_ok=True)
    path.write_text(SCRIPT.format(error=error))
    return subprocess.run([sys.executable, str(path)], capture_output=True, text=True)


@pytest.mark.parametrize("command", ["bin/lm_eval", "bin/lm-eval", "lorafuse_bench/__main__.py"])
def test_our_error_in_lm_eval_is_one_line_and_exit_code_2(tmp_path, command):
    ended = run(tmp_path / command, "LorafuseError('unknown method: x.')")
    assert (ended.returncode, ended.stderr) == (2, "lorafuse: unknown method: x.\n")


def test_a_fault_is_one_line_and_moves_no_cursor():
    error = LorafuseError("no task 'a\n\x1b[31m\ud83dé'. Correct it.", "no 'b'. Name another.")
    assert one_line(error) == "no task 'a\\n\\x1b[31m\\ud83dé'. Correct it.\nno 'b'. Name another."


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried ..."
        ),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
)
def test_too_little_memory_is_one_line(error):
    assert one_line(error).startswith("not enough memory. Use smaller batches")
    assert one_line(RuntimeError("a bug")) is None


def test_other_errors_in_lm_eval_keep_their_traceback(tmp_path):
    ended = run(tmp_path / "bin/lm_eval", "ValueError('x')")
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr


def test_other_programs_keep_the_traceback_of_our_error(tmp_path):
    ended = run(tmp_path / "bin/study.py", "LorafuseError('x')")
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr
