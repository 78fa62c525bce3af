"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...: auto is a GPU where there is one.")]
Dtype = Annotated[str, typer.Option(help="What the base computes in: auto, float32, bfloat16 or float16.")]
IncludePath = Annotated[
    list[Path] | None,
    typer.Option("--include-path", "--include_path", help="A folder of tasks and suites; may be repeated."),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        "--trust_remote_code",
        help="Let the base's own code run, where it needs some (auto_map). It may do anything: read it first.",
    ),
]


def names_in(listed: str | None) -> list[str] | None:
    """The names in an option such as --experts; None where it was not given. One that is empty names nothing."""
    return None if listed is None else [name.strip() for name in listed.split(",")]
