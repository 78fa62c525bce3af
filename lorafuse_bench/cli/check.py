"""`lorafuse check`: is a fusion method sound?"""

from __future__ import annotations

from typing import Annotated

import typer

from lorafuse_bench.cli._answers import Answer, answers


@answers
def command(
    method: Annotated[
        str,
        typer.Argument(
            help="package.module:Class[:options], importable from here, or a method's name[:options]."
        ),
    ],
    freeze: Annotated[
        bool,
        typer.Option("--freeze", help="Write the golden outputs of this version and these options first."),
    ] = False,
) -> Answer:
    """Run every check on a fusion method; exit code 1 if one fails.

    The checks use random experts on random bases: they say whether a method is sound, not whether it is good. A check
    that does not apply is shown as skipped, with the reason.
    """
    from lorafuse_bench.cli._verdicts import answer
    from lorafuse_bench.testing.golden import freeze as write_golden
    from lorafuse_bench.testing.run import CHECKS, check_method, resolve

    found = resolve(method)
    if freeze:
        write_golden(found)
    says = {name: check.says for name, check in CHECKS.items()}
    return answer({"method": found.label(), "version": found.version}, check_method(found), says)
