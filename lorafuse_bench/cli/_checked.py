"""What options are held to when the command line is read: numbers within limits, places to write to, names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import typer

from lorafuse_bench.files import check_file_writable, check_writable
from lorafuse_bench.limits import Limit


def within(limit: Limit) -> Callable[[float | None], float | None]:
    """A callback that refuses numbers beyond a limit, NaN among them."""

    def check(value: float | None) -> float | None:
        if value is not None and not limit.allows(value):
            raise typer.BadParameter(f"{value} is not {limit.words}.")
        return value

    return check


def folder(path: Path | None) -> Path | None:
    """A callback that refuses a folder in which nothing can be written: before the work, not after it."""
    if path is not None:
        check_writable(path)
    return path


def results(context: typer.Context | None, path: Path) -> Path:
    """`folder`, but for a plan, which writes nothing; its option must be eager."""
    if context is None or not context.params.get("planned"):
        check_writable(path)
    return path


def dtype(name: str) -> str:
    """A callback that refuses the name of a type that nothing computes in."""
    import torch

    from lorafuse_bench.device import dtype_of

    dtype_of(name, torch.device("cpu"), torch.float32)
    return name


def file(path: Path | None) -> Path | None:
    """A callback that refuses a file that cannot be written."""
    if path is not None:
        check_file_writable(path)
    return path


def repository(name: str | None) -> str | None:
    """A callback that refuses what cannot be the name of a repository of the hub, in a dry run too."""
    from lorafuse_bench.zoo.locate import is_hub_id

    if name is not None and not is_hub_id(name):
        raise typer.BadParameter("that is not the name of a repository. Write OWNER/NAME.")
    return name
