"""`lorafuse train router`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from lorafuse_bench.cli._checked import within
from lorafuse_bench.cli._options import Device, Dtype, IncludePath, TrustRemoteCode
from lorafuse_bench.cli.train._shared import Accumulation, Data, Out, Seed
from lorafuse_bench.limits import NOT_NEGATIVE, POSITIVE


class Pool(StrEnum):
    last = "last"
    mean = "mean"


class Training(StrEnum):
    post_hoc = "post_hoc"
    joint = "joint"


def command(
    out: Out,
    suite: Annotated[
        str | None, typer.Option(help="Refuse to start unless the zoo covers this suite.")
    ] = None,
    base: Annotated[str | None, typer.Option(help="Refuse to start unless this is the zoo's base.")] = None,
    data: Data = None,
    include_path: IncludePath = None,
    pool: Annotated[
        Pool,
        typer.Option(
            "--pooling", "--pool", help="What a router reads: the last prompt token or the prompt's mean."
        ),
    ] = Pool.last,
    training: Annotated[
        Training, typer.Option(help="post_hoc: on the zoo's experts; joint: with new experts of its own.")
    ] = Training.post_hoc,
    name: Annotated[
        str | None, typer.Option(help="Name in the zoo; by default moa-<pool> or moa-joint.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps.")] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(callback=within(POSITIVE), help="Learning rate; by default 1e-2 post_hoc, 2e-3 joint."),
    ] = None,
    hidden: Annotated[int, typer.Option(min=1, help="Hidden size of each block's router.")] = 32,
    eta: Annotated[
        float,
        typer.Option(
            callback=within(NOT_NEGATIVE),
            help="Weight of the routers' loss relative to the experts' (joint).",
        ),
    ] = 0.1,
    prompts: Annotated[int, typer.Option(min=2, help="Prompts per task (post_hoc).")] = 400,
    accumulation: Accumulation = 1,
    cutoff: Annotated[
        int | None,
        typer.Option(min=8, help="Longest row in tokens; by default the zoo's, as in evaluation."),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Train MoA's routers for all experts of a zoo and write them into it."""
    from lorafuse_bench.cli import _next
    from lorafuse_bench.fusion import registry
    from lorafuse_bench.progress import Display
    from lorafuse_bench.remote_code import trust
    from lorafuse_bench.tasks import catalogue
    from lorafuse_bench.training.joint import JointSettings, train_joint
    from lorafuse_bench.training.router_training import RouterSettings, check_zoo, train_router
    from lorafuse_bench.zoo.manifest import Zoo

    trust(trust_remote_code)
    zoo = Zoo.open(out)
    catalogue.include(include_path or ())
    check_zoo(zoo, suite, base)
    if training is Training.joint:
        joint = JointSettings(
            pool=pool.value,
            seed=seed,
            accumulation=accumulation,
            hidden=hidden,
            eta=eta,
            learning_rate=JointSettings.learning_rate if learning_rate is None else learning_rate,
            cutoff=cutoff or zoo.manifest.max_length or JointSettings.cutoff,
            steps=steps or JointSettings.steps,
        )
        with Display(steps=1) as display, display.step("routers and experts"):
            zoo = train_joint(zoo, joint, name or "moa-joint", data, display, device, dtype)
    else:
        settings = RouterSettings(
            pool=pool.value,
            seed=seed,
            cutoff=cutoff,
            hidden=hidden,
            learning_rate=RouterSettings.learning_rate if learning_rate is None else learning_rate,
            prompts_per_task=prompts,
            steps=steps or RouterSettings.steps,
        )
        with Display(steps=1) as display, display.step("routers"):
            zoo = train_router(zoo, settings, name, data, device, dtype)
    entry = zoo.manifest.artefacts[-1]
    accuracy = ", ".join(f"{value:.3f}" for value in entry.settings["accuracy_per_block"])
    typer.echo(f"router {entry.name}: accuracy {entry.settings['accuracy']:.3f} (per block: {accuracy})")
    method = registry.create("moa", entry.options).label()
    also = _next.given(include_path=include_path, trust_remote_code=trust_remote_code)
    typer.echo(_next.evaluation(zoo, f"base,oracle,{method}", also=also))
