"""Finding analyses by name."""

from __future__ import annotations

from typing import Any

from lorafuse_bench import analysis
from lorafuse_bench.analysis.base import Analysis
from lorafuse_bench.registry import Registry

ANALYSES: Registry[Analysis[Any]] = Registry("analysis", analysis, "lorafuse.analyses", Analysis)
"""Every file under analysis/, and the entry points of other packages."""

register = ANALYSES.register
analyses = ANALYSES.all
create = ANALYSES.create
