"""Build hook: one package in the wheel, and the start-up files beside it.

The wheel carries tasks/, model_wrappers/ and leaderboards/ inside lorafuse_bench/, so that nothing
with so general a name lands in site-packages. An editable install finds them through `__path__`
(lorafuse_bench/__init__.py) and needs only the start-up files. What was measured stays in the repository.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

INSIDE = ("tasks", "model_wrappers", "leaderboards")
MEASURED = ("leaderboards/published", "leaderboards/analyses")
# Python < 3.15 runs the .pth at start-up; Python >= 3.15 runs the .start instead (PEP 829).
STARTUP = ("lorafuse_bench.pth", "lorafuse_bench.start")


class LorafuseBuildHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        startup = {f"lorafuse_bench/startup/{name}": name for name in STARTUP}
        if version == "editable":
            build_data["force_include_editable"].update(startup)
        else:
            root = Path(self.root)
            paths = (
                path for name in INSIDE for path in (root / name).iterdir() if path.name != "__pycache__"
            )
            inside = sorted(str(path.relative_to(root)) for path in paths)
            carried = {name: f"lorafuse_bench/{name}" for name in inside if name not in MEASURED}
            build_data["force_include"].update(carried | startup)
