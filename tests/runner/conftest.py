"""What tests of the runner share."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import tiny_zoo

from lorafuse_bench.zoo.manifest import Zoo


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory, handmade_data: Path) -> Zoo:
    """Seven random experts without routers, and handmade rows."""
    made = tiny_zoo(tmp_path_factory.mktemp("zoo"), experts=7)
    saved = Zoo(made.root, made.manifest.model_copy(update={"data": str(handmade_data)}))
    saved.save()
    return saved
