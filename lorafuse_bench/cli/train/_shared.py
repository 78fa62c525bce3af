"""Options that the commands of `lorafuse train` have, and the zoo and base that they mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorafuse_bench.cli import _checked
from lorafuse_bench.limits import MAX_SEED

if TYPE_CHECKING:
    from lorafuse_bench.zoo.manifest import Zoo

Out = Annotated[
    Path,
    typer.Option(callback=_checked.folder, help="The zoo directory; what is finished in it is kept."),
]
Data = Annotated[str | None, typer.Option(help="hub, mini, or a data directory.")]
Accumulation = Annotated[int, typer.Option(min=1, help="Portions a batch is computed in, to save memory.")]
Cutoff = Annotated[
    int,
    typer.Option(min=8, help="Longest row in tokens, in evaluation too; longer prompts lose their middle."),
]
Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of everything random.")]


def zoo_at(out: Path) -> Zoo | None:
    """The zoo that is at `out` already."""
    from lorafuse_bench.zoo.manifest import Zoo

    return Zoo.open(out) if (out / "manifest.json").is_file() else None


def base_of(given: str | None, zoo: Zoo | None, out: Path) -> str:
    """The base that is named, else the zoo's; LorafuseError without either."""
    from lorafuse_bench.errors import LorafuseError
    from lorafuse_bench.zoo.installed import check_own

    if given is None and zoo is None:
        check_own(out)
        raise LorafuseError(f"{out} is not a zoo yet. Name a --base to start one.")
    return given or str(zoo and (zoo.hub_id or zoo.base_folder()))
