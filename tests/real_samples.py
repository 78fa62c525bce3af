"""Where tests find real data samples."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def shared_data() -> Path:
    """The directory of real data samples: LORAFUSE_DATA, or `../shared/data` beside the checkout.

    Skips the calling test, with the reason, where there is none.
    """
    given = os.environ.get("LORAFUSE_DATA")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs real data samples: set LORAFUSE_DATA, or put them in {folder}")
    return folder
