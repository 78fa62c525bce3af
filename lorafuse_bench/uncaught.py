"""How our errors end a command: one line on stderr and exit code 2, in `lorafuse` and in `lm_eval`."""

from __future__ import annotations

import errno
import sys
from types import TracebackType

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import FREE_SPACE

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def say(message: object) -> None:
    """One line on stderr, marked as ours."""
    print(f"lorafuse: {message}", file=sys.stderr)


# What the system refuses for reasons that are the user's to mend, and how.
_REMEDIES = dict.fromkeys(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "Free some space; the same command goes on."
)
_REMEDIES |= dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Choose one you may use.")
_REMEDIES |= dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.EISDIR), "Check the path.")
_REMEDIES |= {errno.ENAMETOOLONG: "Give a shorter one.", errno.EMFILE: "Raise `ulimit -n`."}
# As safetensors and torch say it: their errors carry no number.
_NO_SPACE = ("No space left on device", "Disk quota exceeded", "File too large", "PytorchStreamWriter failed")
_NO_MEMORY = ("can't allocate memory", "out of memory", "Unable to allocate")
_LONGEST_PATH = 200


def one_line(error: BaseException) -> str | None:
    """What an error says that is the user's to mend: ours, and the system's; None for a bug."""
    if isinstance(error, LorafuseError):
        return str(error)
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        path = str(error.filename or "a file that is read or written")
        shown = path if len(path) <= _LONGEST_PATH else f"{path[:_LONGEST_PATH]}..."
        return f"{shown}: {error.strerror}. {_REMEDIES[error.errno]}"
    if any(words in str(error) for words in _NO_SPACE):
        return f"a file cannot be written: no space is left. {FREE_SPACE}"
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        return "not enough memory. Use smaller batches, ranks or lengths, or another --dtype or --device."
    return None


def install_excepthook() -> None:
    """End the process on an uncaught LorafuseError with one line and exit code 2; others as before."""
    previous = sys.excepthook
    if hasattr(previous, "says_lorafuse"):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        line = one_line(error)
        if line is not None:
            say(line)
            # The interpreter ends with the code of a SystemExit raised here, instead of its usual 1.
            sys.exit(EXIT_BAD_INPUT)
        previous(kind, error, trace)

    setattr(hook, "says_lorafuse", True)  # noqa: B010
    sys.excepthook = hook
