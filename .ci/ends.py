"""Print pip's constraints for one end of the ranges of pyproject.toml: `python ends.py lowest|newest`.

At the lower end lm-eval, transformers and peft are the oldest release that is allowed, at the upper end the newest;
torch is the release of constraints.txt at either end.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENDS = {"lowest": "==", "newest": ">="}
MOVED = ("lm_eval", "transformers", "peft")


def constraints(end: str) -> list[str]:
    """One line for each package that is held."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    ranges = dict(re.fullmatch(r"([\w-]+)(?:\[.*\])?>=(.*)", line).groups() for line in declared)
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    return [f"{name}{ENDS[end]}{ranges[name]}" for name in MOVED] + [
        p for p in pinned if p.startswith("torch==")
    ]


if __name__ == "__main__":
    if sys.argv[1:] not in [[end] for end in ENDS]:
        sys.exit(f"ends: say {' or '.join(ENDS)}.")
    print("\n".join(constraints(sys.argv[1])))
