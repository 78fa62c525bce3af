"""`lorafuse train adapter`."""

from __future__ import annotations

from typing import Annotated

import typer

from lorafuse_bench.cli._checked import within
from lorafuse_bench.cli._options import Device, Dtype, IncludePath, TrustRemoteCode
from lorafuse_bench.cli.train._shared import Accumulation, Cutoff, Data, Out, Seed, base_of, zoo_at
from lorafuse_bench.limits import POSITIVE


def command(
    method: Annotated[
        str,
        typer.Option(help="An adapter method with its options, such as moore or moore:d_t=16+reflections=2."),
    ],
    suite: Annotated[str, typer.Option(help="All tasks of this suite are trained at once.")],
    out: Out,
    base: Annotated[
        str | None,
        typer.Option(help="A model folder, a hub id, or mini; by default that of the zoo at --out."),
    ] = None,
    data: Data = None,
    include_path: IncludePath = None,
    learning_rate: Annotated[
        float, typer.Option(callback=within(POSITIVE), help="Learning rate between warm-up and decay.")
    ] = 3e-4,
    epochs: Annotated[float, typer.Option(callback=within(POSITIVE), help="Passes over the rows.")] = 2.0,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps, in place of --epochs.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per step.")] = 8,
    accumulation: Accumulation = 1,
    gradient_checkpointing: Annotated[
        bool,
        typer.Option(
            "--gradient-checkpointing",
            help="Less memory for one more pass forward; the gradients are the same.",
        ),
    ] = False,
    cutoff: Cutoff = 512,
    rows: Annotated[int | None, typer.Option(min=1, help="Training rows per task at most.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Train a multi-task adapter on all tasks of a suite.

    Completion-only loss on the same prompts as in evaluation. Running the command again continues an
    interrupted adapter from its last checkpoint.
    """
    from lorafuse_bench.cli import _next
    from lorafuse_bench.errors import LorafuseError
    from lorafuse_bench.fusion import registry
    from lorafuse_bench.fusion.adapters.trained import TrainedAdapter
    from lorafuse_bench.progress import Display
    from lorafuse_bench.remote_code import trust
    from lorafuse_bench.tasks import catalogue
    from lorafuse_bench.tasks.data import resolve_source
    from lorafuse_bench.tasks.suites import suite as suite_of
    from lorafuse_bench.training.adapter_training import train_adapter
    from lorafuse_bench.training.settings import AdapterSettings
    from lorafuse_bench.training.team import Team
    from lorafuse_bench.zoo.installed import writable
    from lorafuse_bench.zoo.manifest import Zoo

    writable(out)
    trust(trust_remote_code)
    catalogue.include(include_path or ())
    asked = suite_of(suite)
    suite, keys = asked.name, tuple(asked.tasks)
    chosen = registry.parse(method)
    if not isinstance(chosen, TrainedAdapter):
        known = [name for name, cls in registry.methods().items() if issubclass(cls, TrainedAdapter)]
        raise LorafuseError(
            f"method '{chosen.name}' is not a trained adapter. These are: {', '.join(known)}."
        )
    zoo = zoo_at(out)
    settings = AdapterSettings(
        learning_rate=learning_rate,
        epochs=None if steps else epochs,
        steps=steps or AdapterSettings.steps,
        batch_size=batch_size,
        accumulation=accumulation,
        gradient_checkpointing=gradient_checkpointing,
        cutoff=cutoff,
        rows=rows,
        seed=seed,
    )
    with Display() as display:
        entry = train_adapter(
            chosen,
            suite,
            keys,
            base_of(base, zoo, out),
            out,
            resolve_source(data, str(out) if zoo else None),
            settings,
            report=display,
            device=device,
            dtype=dtype,
        )
    if not Team.of_launch().leads:
        return
    typer.echo(f"adapter {entry.name}: {entry.parameters:,} parameters in {out}")
    also = _next.given(include_path=include_path, trust_remote_code=trust_remote_code)
    typer.echo(_next.compared(Zoo.open(out), chosen.label(), suite, also))
