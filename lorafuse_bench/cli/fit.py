"""`lorafuse fit`: learn a method's weights, gates or routers on a zoo's frozen experts, once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from lorafuse_bench.cli._checked import within
from lorafuse_bench.cli._options import Device, Dtype, IncludePath, TrustRemoteCode, names_in
from lorafuse_bench.limits import MAX_SEED, POSITIVE


def command(
    method: Annotated[
        str,
        typer.Argument(
            help="A method with its options, such as merge_sgd:scope=layer; losses for the experts' loss matrix."
        ),
    ],
    control: Annotated[
        str | None,
        typer.Option(
            help="Fit the method's control: random (the method on experts of random factors), or budget (one LoRA"
            " on what its fit reads)."
        ),
    ] = None,
    *,
    suite: Annotated[str, typer.Option(help="The suite, or tasks joined by /, to learn on.")],
    zoo: Annotated[Path, typer.Option(help="The zoo directory; what was learned is stored in it.")],
    data: Annotated[
        str | None, typer.Option(help="hub, mini, or a data directory; by default the zoo's.")
    ] = None,
    experts: Annotated[
        str | None,
        typer.Option(
            help="Experts separated by commas, or a bank such as @mbc; by default private ones of the suite's tasks."
        ),
    ] = None,
    epochs: Annotated[float, typer.Option(callback=within(POSITIVE), help="Passes over the rows.")] = 5.0,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps at most.")] = None,
    lrs: Annotated[
        str | None, typer.Option(help="Learning rates to choose among on dev rows, separated by commas.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per step.")] = 8,
    rows: Annotated[int | None, typer.Option(min=1, help="Rows per task to learn on at most.")] = None,
    dev: Annotated[
        int, typer.Option(min=1, help="Last training rows per task to choose by, at most a fifth of them.")
    ] = 200,
    seen_dev: Annotated[
        bool, typer.Option("--seen-dev", help="Choose by dev rows even if experts were trained on them.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of everything random.")] = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    include_path: IncludePath = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Learn once on top of frozen experts, and store it in the zoo; evaluation only reads it.

    The same command goes on with an interrupted fit, to the same bytes, and keeps one that is there already.
    """
    from lorafuse_bench.cli import _next
    from lorafuse_bench.errors import LorafuseError
    from lorafuse_bench.fusion import registry
    from lorafuse_bench.fusion.controls import controlled
    from lorafuse_bench.fusion.fitted import Fitted
    from lorafuse_bench.progress import Display
    from lorafuse_bench.remote_code import trust
    from lorafuse_bench.tasks import catalogue
    from lorafuse_bench.tasks.data import resolve_source
    from lorafuse_bench.training.fitting import FitSettings, fit
    from lorafuse_bench.training.loss_matrix import LOSSES, Losses
    from lorafuse_bench.zoo.manifest import Zoo

    trust(trust_remote_code)
    catalogue.include(include_path or ())
    chosen = Losses() if method == LOSSES else registry.parse(method)
    if not isinstance(chosen, Fitted):
        known = [name for name, cls in registry.methods().items() if issubclass(cls, Fitted)]
        raise LorafuseError(
            f"method '{chosen.name}' learns nothing. These do: {', '.join(known)}; losses is the loss matrix."
        )
    if control is not None:
        chosen = cast(Fitted, controlled(chosen, control))
    settings = FitSettings(
        epochs=epochs,
        steps=steps,
        rates=None if lrs is None else tuple(_rate(text) for text in lrs.split(",")),
        batch_size=batch_size,
        rows=rows,
        dev=dev,
        seed=seed,
    )
    opened = Zoo.open(zoo)
    named = names_in(experts)
    source = resolve_source(data, str(zoo))
    with Display() as display:
        entry = fit(chosen, suite, opened, source, settings, named, seen_dev, display, device, dtype)
    typer.echo(f"fit {entry.name} in {zoo}")
    if method != LOSSES:
        also = _next.given(
            experts=experts, data=data, include_path=include_path, trust_remote_code=trust_remote_code
        )
        typer.echo(_next.evaluation(opened, f"base,oracle,{chosen.label()}", suite, also))


def _rate(text: str) -> float:
    from lorafuse_bench.errors import LorafuseError

    try:
        return float(text)
    except ValueError as error:
        raise LorafuseError(f"--lrs: '{text}' is not a number. Give rates such as 1e-3,1e-4.") from error
