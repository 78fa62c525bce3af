"""The whole input that every row of the table damages a copy of."""

from __future__ import annotations

from pathlib import Path

import pytest
from damage import Work, make_work
from transformers.utils import logging


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, handmade_data: Path) -> Work:
    """A work that nothing is wrong with."""
    return make_work(tmp_path_factory.mktemp("whole"), handmade_data)


@pytest.fixture(autouse=True)
def _no_bars() -> None:
    """transformers' bars are no lines of ours."""
    logging.disable_progress_bar()
