"""What tests of several folders share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Tests never wait for a network; huggingface_hub reads this when it is first imported.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from handmade import write_data


def shared_data() -> Path:
    """The directory of real data samples: LORAFUSE_DATA, or `../shared/data` beside the checkout.

    Skips the calling test, with the reason, where there is none.
    """
    given = os.environ.get("LORAFUSE_DATA")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs real data samples: set LORAFUSE_DATA, or put them in {folder}")
    return folder


@pytest.fixture(scope="session")
def handmade_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a few handmade rows for every task."""
    return write_data(tmp_path_factory.mktemp("data"))
