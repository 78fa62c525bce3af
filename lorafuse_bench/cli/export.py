"""`lorafuse export`: a merge, or every expert, as files that PEFT, lm-eval and servers load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorafuse_bench.cli import _checked
from lorafuse_bench.cli._trust import TrustRemoteCode


def command(
    out: Annotated[
        Path, typer.Option(callback=_checked.folder, help="A new folder; one that is not empty is refused.")
    ],
    method: Annotated[
        str | None, typer.Option(help="The merge, with options as name:option=value+option=value.")
    ] = None,
    zoo: Annotated[str, typer.Option(help="A zoo directory, or 'mini', the embedded one.")] = "mini",
    experts: Annotated[
        str | None,
        typer.Option(help="Experts separated by commas, or a bank such as @mbc; by default all private."),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Instead of a merge, every expert as an adapter of its own.")
    ] = False,
    vllm_cpu: Annotated[
        bool,
        typer.Option(
            "--vllm-cpu",
            help="With --all: where vLLM on CPUs does not serve the base's head size, write wider adapters and base.",
        ),
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Write a merge as a PEFT adapter, or as a whole model where it is full-rank.

    An interruption leaves nothing behind.
    """
    from lorafuse_bench.errors import LorafuseError

    if every == (method is not None):
        raise LorafuseError("say what to export: --method NAME, or --all for every expert (and not both).")
    if vllm_cpu and not every:
        raise LorafuseError("--vllm-cpu goes with --all. Leave it out, or export every expert.")
    from lorafuse_bench.cli import _next
    from lorafuse_bench.export import export_experts, export_experts_for, export_merge
    from lorafuse_bench.fusion import registry
    from lorafuse_bench.remote_code import trust
    from lorafuse_bench.zoo.manifest import Zoo
    from lorafuse_bench.zoo.pools import named

    opened = Zoo.open(zoo)
    trust(trust_remote_code)
    names = [name.strip() for name in experts.split(",")] if experts else None
    if method is None:
        if vllm_cpu:
            from lorafuse_bench.heads import VLLM_CPU_SIZES

            written = export_experts_for(VLLM_CPU_SIZES, opened, out, names)
        else:
            written = export_experts(opened, out, names)
        typer.echo(f"{len(written)} adapters in {out}: {', '.join(one.path.name for one in written)}")
        first = written[0]
    else:
        first = export_merge(registry.parse(method), opened, out, names)
        whole = first.kind == "model"
        kind = "a whole model in fp32" if whole else f"an adapter of {first.parameters} parameters"
        typer.echo(f"{method} as {kind} in {out}")
    model = str(first.path) if first.kind == "model" else f"{first.base},peft={first.path}"
    fused = named(opened, names)
    tasks = (task for entry in (fused[:1] if method is None else fused) for task in entry.tasks)
    typer.echo(_next.harness(f"pretrained={model}", zoo, tasks))
