"""`lorafuse check-zoo`: is a zoo sound, and worth fusing?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorafuse_bench.cli._answers import Answer, answers


@answers
def command(
    zoo: Annotated[str, typer.Argument(help="A zoo's folder or name.")],
    results: Annotated[
        list[Path] | None,
        typer.Option(help="Results of base and oracle on it: are its experts above the base?"),
    ] = None,
) -> Answer:
    """Read a zoo's files: hashes, the experts' fit to the base, one expert for each task, the oracle above the base."""
    from lorafuse_bench.cli._verdicts import answer
    from lorafuse_bench.testing.brought import check_zoo

    return answer({"zoo": zoo}, check_zoo(zoo, results or ()), {})
