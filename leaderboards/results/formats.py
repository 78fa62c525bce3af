"""How results of older versions of the format read: as they were written on disk, in today's form in memory.

Their ids are of what was written, so both directions are kept. A field that later versions added is absent there and
takes its default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Version -> today's name of a field -> its name then.
_RENAMED = {
    "lorafuse.result/1": {"artefacts": "routers"},
    "lorafuse.result/2": {"artefacts": "routers"},
}


def migrated(content: Mapping[str, Any]) -> dict[str, Any]:
    """A result file's content of any version, in today's form."""
    then = {old: new for new, old in _RENAMED.get(content["schema"], {}).items()}
    return {then.get(name, name): value for name, value in content.items()}


def as_written(content: Mapping[str, Any]) -> dict[str, Any]:
    """Today's form as the result's own version writes it."""
    then = _RENAMED.get(content["schema"], {})
    return {then.get(name, name): value for name, value in content.items()}
