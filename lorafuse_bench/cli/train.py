"""`lorafuse train`: experts, routers and multi-task adapters for a zoo, on any base and any data."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorafuse_bench.cli import _checked
from lorafuse_bench.cli._checked import within
from lorafuse_bench.cli._options import Device, Dtype, IncludePath, TrustRemoteCode
from lorafuse_bench.limits import MAX_SEED, NOT_NEGATIVE, PART, POSITIVE, SHARE

if TYPE_CHECKING:
    from lorafuse_bench.zoo.manifest import Zoo

app = typer.Typer(
    help="Train LoRA experts, routers and multi-task adapters into a zoo.", no_args_is_help=True
)

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


class Pool(StrEnum):
    last = "last"
    mean = "mean"


class BankOf(StrEnum):
    private = "private"
    mbc = "mbc"
    shared = "shared"


class Training(StrEnum):
    post_hoc = "post_hoc"
    joint = "joint"


@app.command()
def experts(
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
    there = _zoo_at(out)
    with Display() as display:
        zoo = train_experts(
            _base(base, there, out),
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
    typer.echo(f"{len(zoo.manifest.experts)} experts in {out}")
    also = _next.given(include_path=include_path, trust_remote_code=trust_remote_code)
    typer.echo(_next.command("lorafuse", "train", "router", "--out", out, *also))
    typer.echo(_next.evaluation(zoo, suite=suite, also=also))


@app.command()
def router(
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


@app.command()
def adapter(
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
    zoo = _zoo_at(out)
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
            _base(base, zoo, out),
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


def _zoo_at(out: Path) -> Zoo | None:
    """The zoo that is at `out` already."""
    from lorafuse_bench.zoo.manifest import Zoo

    return Zoo.open(out) if (out / "manifest.json").is_file() else None


def _base(given: str | None, zoo: Zoo | None, out: Path) -> str:
    """The base that is named, else the zoo's; LorafuseError without either."""
    from lorafuse_bench.errors import LorafuseError
    from lorafuse_bench.zoo.installed import check_own

    if given is None and zoo is None:
        check_own(out)
        raise LorafuseError(f"{out} is not a zoo yet. Name a --base to start one.")
    return given or str(zoo and (zoo.hub_id or zoo.base_folder()))
