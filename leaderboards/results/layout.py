"""Where a cell is stored in a folder of results, and what its files are called."""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.parse import quote

LONGEST_NAME = 120


def slug(label: str) -> str:
    """A file name for a label: ':' becomes '@', the unsafe is percent-encoded; no two labels share one."""
    name = quote(label, safe="=,+-._~ :").replace(" ", "%20").replace(":", "@")
    if name.startswith("."):
        name = "%2E" + name[1:]
    if len(name) > LONGEST_NAME:
        name = f"{name[:LONGEST_NAME]}~{hashlib.sha256(label.encode()).hexdigest()[:12]}"
    return name


def cell_path(out: str | Path, suite: str, zoo_name: str, seed: int, label: str) -> Path:
    """`<out>/<suite>/<zoo name>-<seed>/<label>.json`."""
    return Path(out) / slug(suite) / f"{slug(zoo_name)}-{seed}" / f"{slug(label)}.json"


def items_path(path: Path) -> Path:
    """The sidecar beside a result file."""
    return path.with_name(path.name.removesuffix(".json") + ".items.json.gz")
