"""`lorafuse train experts`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from lorafuse_bench.cli._answers import counted
from lorafuse_bench.cli._checked import within
from lorafuse_bench.cli._options import Device, Dtype, IncludePath, TrustRemoteCode
from lorafuse_bench.cli.train._shared import Accumulation, Cutoff, Data, Out, Seed, base_of, zoo_at
from lorafuse_bench.limits import PART, POSITIVE, SHARE


class Init(StrEnum):
    shared = "shared"
    independent = "independent"


class Decline(StrEnum):
    linear = "linear"
    cosine = "cosine"
    constant = "constant"


class SavedAs(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"


class BankOf(StrEnum):
    private = "private"
    mbc = "mbc"
    shared = "shared"


def command(
    suite: Annotated[
        str, typer.Option(help="The suite whose tasks experts are trained for; a name or a YAML file.")
    ],
    out: Out,
    base: Annotated[
        str | None,
        typer.Option(help="A model folder or a hub id, such as Qwen/Qwen2-0.5B; by default the zoo's."),
    ] = None,
    bank: Annotated[
        BankOf,
        typer.Option(
            help="One expert for each task, for each cluster of `lorafuse zoo cluster`, or for all."
        ),
    ] = BankOf.private,
    data: Data = None,
    include_path: IncludePath = None,
    learning_rate: Annotated[
        float, typer.Option(callback=within(POSITIVE), help="Peak learning rate, after the warm-up.")
    ] = 1e-4,
    schedule: Annotated[
        Decline, typer.Option(help="How the learning rate falls after the warm-up; constant: it does not.")
    ] = Decline.linear,
    warmup: Annotated[
        float, typer.Option(callback=within(SHARE), help="Share of the steps in which the rate rises.")
    ] = 0.05,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps per expert.")] = 1000,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per step.")] = 8,
    rank: Annotated[int, typer.Option(min=1, help="LoRA rank.")] = 8,
    alpha: Annotated[
        float, typer.Option(callback=within(POSITIVE), help="LoRA alpha; the update is scaled by alpha/rank.")
    ] = 16.0,
    dropout: Annotated[float, typer.Option(callback=within(PART), help="LoRA dropout.")] = 0.0,
    targets: Annotated[
        str, typer.Option(help="Adapted modules separated by commas, or all-linear as in PEFT.")
    ] = "q_proj,k_proj,v_proj,o_proj",
    accumulation: Accumulation = 1,
    cutoff: Cutoff = 512,
    rows: Annotated[int | None, typer.Option(min=1, help="Training rows per task at most.")] = None,
    epochs: Annotated[
        float | None,
        typer.Option(
            callback=within(POSITIVE), help="Passes over a task's rows at most, where they are few."
        ),
    ] = None,
    held_out: Annotated[
        int, typer.Option(min=0, help="Last training rows to leave alone, at most a fifth of them.")
    ] = 0,
    init: Annotated[Init, typer.Option(help="Whether all experts start from the same A.")] = Init.shared,
    seed: Seed = 0,
    workers: Annotated[
        int,
        typer.Option(min=1, help="Experts trained at a time, on a CPU with one thread each if several."),
    ] = 1,
    device: Device = "auto",
    dtype: Dtype = "auto",
    saved_as: Annotated[SavedAs, typer.Option(help="Type the experts are saved in.")] = SavedAs.float32,
    report_to: Annotated[
        str, typer.Option(help="Trackers separated by commas: tensorboard, wandb. Curves lie in OUT/logs.")
    ] = "",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Train LoRA experts for the tasks of a suite, one per task or as --bank says.

    Completion-only loss on the same prompts as in evaluation. Running the command again continues
    an interrupted expert from its last checkpoint.
    """
    from lorafuse_bench.cli import _next
    from lorafuse_bench.progress import Display
    from lorafuse_bench.remote_code import trust
    from lorafuse_bench.tasks import catalogue
    from lorafuse_bench.tasks.data import resolve_source
    from lorafuse_bench.tasks.suites import suite as suite_of
    from lorafuse_bench.training.banks import experts_of
    from lorafuse_bench.training.expert_training import train_experts
    from lorafuse_bench.training.settings import ExpertSettings
    from lorafuse_bench.training.team import Team

    trust(trust_remote_code)
    catalogue.include(include_path or ())
    asked = suite_of(suite)
    suite, keys = asked.name, tuple(asked.tasks)
    settings = ExpertSettings(
        learning_rate=learning_rate,
        decay=schedule.value,
        warmup_share=warmup,
        steps=steps,
        batch_size=batch_size,
        rank=rank,
        alpha=alpha,
        dropout=dropout,
        targets=tuple(name.strip() for name in targets.split(",")),
        accumulation=accumulation,
        cutoff=cutoff,
        rows=rows,
        held_out=held_out,
        epochs=epochs,
        seed=seed,
        init=init.value,
        saved_as=saved_as.value,
    )
    there = zoo_at(out)
    with Display() as display:
        zoo = train_experts(
            base_of(base, there, out),
            experts_of(bank.value, keys, out),
            out,
            resolve_source(data, str(out) if there else None),
            settings,
            workers=workers,
            device=device,
            dtype=dtype,
            report=display,
            report_to=[name.strip() for name in report_to.split(",") if name.strip()],
        )
    if not Team.of_launch().leads:
        return
    typer.echo(f"{counted(len(zoo.manifest.experts), 'expert')} in {out}")
    also = _next.given(include_path=include_path, trust_remote_code=trust_remote_code)
    typer.echo(_next.command("lorafuse", "train", "router", "--out", out, *also))
    typer.echo(_next.evaluation(zoo, suite=suite, also=also))
