"""The option that lets a base model's own code run."""

from __future__ import annotations

from typing import Annotated

import typer

TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        "--trust_remote_code",
        help="Let the base's own code run, where it needs some (auto_map). It may do anything: read it first.",
    ),
]
