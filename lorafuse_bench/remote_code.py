"""The user's consent to run code that a base model brings with it."""

from __future__ import annotations

import os

TRUST = "LORAFUSE_TRUST_REMOTE_CODE"
"""Environment variable that holds the consent, so that processes started from this one have it too."""


def trusted() -> bool:
    """Whether the user allows a base's own code to run."""
    return os.environ.get(TRUST) == "1"


def trust(allowed: bool) -> None:
    """Remember the consent where it is given."""
    if allowed:
        os.environ[TRUST] = "1"
