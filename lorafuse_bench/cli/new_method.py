"""`lorafuse new-method`: a package with one fusion method, its test and its continuous integration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorafuse_bench.cli import _checked


def command(
    name: Annotated[str, typer.Argument(help="The method's name: small letters, digits and '_'.")],
    out: Annotated[
        Path | None,
        typer.Option(callback=_checked.folder, help="New folder of the package; by default ./lorafuse-NAME."),
    ] = None,
) -> None:
    """Write a package with a fusion method of your own, ready to be installed and checked.

    The method starts as the mean of the experts' updates, which passes every check; docs/extending/method.md goes on
    from there.
    """
    from lorafuse_bench.testing.template import write_package

    folder = write_package(name, out or Path(f"lorafuse-{name.replace('_', '-')}"))
    typer.echo(
        f"{folder}: a package with the method '{name}'. Try it with `pip install -e {folder} && pytest {folder}`, then"
        f" write your method in {folder / f'lorafuse_{name}' / 'method.py'}."
    )
