"""How our errors end a command: one line on stderr and exit code 2, in `lorafuse` and in `lm_eval`."""

from __future__ import annotations

import sys
from types import TracebackType

from lorafuse_bench.errors import LorafuseError

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def say(message: object) -> None:
    """One line on stderr, marked as ours."""
    print(f"lorafuse: {message}", file=sys.stderr)


def install_excepthook() -> None:
    """End the process on an uncaught LorafuseError with one line and exit code 2; others as before."""
    previous = sys.excepthook
    if hasattr(previous, "says_lorafuse"):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, LorafuseError):
            say(error)
            # The interpreter ends with the code of a SystemExit raised here, instead of its usual 1.
            sys.exit(EXIT_BAD_INPUT)
        previous(kind, error, trace)

    setattr(hook, "says_lorafuse", True)  # noqa: B010
    sys.excepthook = hook
