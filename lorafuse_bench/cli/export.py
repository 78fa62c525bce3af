"""`lorafuse export`: a merge, or every expert, as files that PEFT, lm-eval and servers load."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorafuse_bench.cli import _checked
from lorafuse_bench.cli._answers import Answer, answers, counted, uploaded
from lorafuse_bench.cli._options import TrustRemoteCode, names_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lorafuse_bench.export import Exported
    from lorafuse_bench.zoo.manifest import Zoo


@answers
def command(
    out: Annotated[
        Path,
        typer.Option(
            callback=_checked.folder, help="A new folder; with --push alone, one that was exported before."
        ),
    ],
    method: Annotated[
        str | None, typer.Option(help="The merge, with options as name:option=value+option=value.")
    ] = None,
    zoo: Annotated[
        str, typer.Option(help="A zoo directory, an installed zoo such as 'mini', or OWNER/NAME of the hub.")
    ] = "mini",
    experts: Annotated[
        str | None,
        typer.Option(help="Experts separated by commas, or a bank such as @mbc; by default all private."),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Instead of a merge, every expert as an adapter of its own.")
    ] = False,
    whole: Annotated[
        bool, typer.Option("--whole", help="With --method: a whole model, also where an adapter would do.")
    ] = False,
    dtype: Annotated[
        str, typer.Option(help="Type to write in: float32, bfloat16, float16, or auto, the base's own.")
    ] = "float32",
    results: Annotated[
        list[Path] | None,
        typer.Option(help="Results, or a leaderboard.json, whose scores the card shows; may be repeated."),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(
            callback=_checked.repository,
            help="Put it on the hub, as OWNER/NAME; without --yes only say what would be.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="With --push: upload.")] = False,
    vllm_cpu: Annotated[
        bool,
        typer.Option(
            "--vllm-cpu",
            help="With --all: where vLLM on CPUs does not serve the base's head size, write wider adapters and base.",
        ),
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> Answer:
    """Write a merge as a PEFT adapter, or as a whole model where it is full-rank, with a card.

    An interruption leaves nothing behind.
    """
    from lorafuse_bench.errors import LorafuseError
    from lorafuse_bench.remote_code import trust

    if every == (method is not None) and (every or push is None):
        raise LorafuseError("say what to export: --method NAME, or --all for every expert (and not both).")
    if (vllm_cpu and not every) or ((whole or results) and method is None):
        raise LorafuseError(
            "--vllm-cpu goes with --all, --whole and --results with --method. Leave them out."
        )
    trust(trust_remote_code)
    names = names_in(experts)
    made: list[Exported] = []
    lines: list[str] = []
    if method is not None:
        made, lines = _merge(method, zoo, out, names, whole, dtype, results or ())
    elif every:
        made, lines = _every(zoo, out, names, dtype, vllm_cpu)
    data = [{"path": str(e.path), "kind": e.kind, "base": e.base, "parameters": e.parameters} for e in made]
    pushed = _push(out, push, yes) if push is not None else Answer({}, ())
    return Answer({"exported": data, **pushed.data}, [*lines, *pushed.shown])


def _merge(
    method: str,
    zoo: str,
    out: Path,
    names: Sequence[str] | None,
    whole: bool,
    dtype: str,
    results: Sequence[Path],
) -> tuple[list[Exported], list[str]]:
    from lorafuse_bench.export import export_merge
    from lorafuse_bench.fusion import registry
    from lorafuse_bench.model_card import read_scores
    from lorafuse_bench.zoo.manifest import Zoo

    opened = Zoo.open(zoo)
    scores = read_scores(results)
    made = export_merge(registry.parse(method), opened, out, names, whole, dtype, scores)
    kind = "a whole model" if made.kind == "model" else f"an adapter of {made.parameters} parameters"
    return [made], [f"{method} as {kind} in {out}, {dtype}", _next_line(made, opened, zoo, names)]


def _every(
    zoo: str, out: Path, names: Sequence[str] | None, dtype: str, vllm_cpu: bool
) -> tuple[list[Exported], list[str]]:
    from lorafuse_bench.export import export_experts, export_experts_for
    from lorafuse_bench.heads import VLLM_CPU_SIZES
    from lorafuse_bench.zoo.manifest import Zoo

    opened = Zoo.open(zoo)
    written = (
        export_experts_for(VLLM_CPU_SIZES, opened, out, names, dtype)
        if vllm_cpu
        else export_experts(opened, out, names, dtype)
    )
    told = f"{counted(len(written), 'adapter')} in {out}: {', '.join(one.path.name for one in written)}"
    return written, [told, _next_line(written[0], opened, zoo, [written[0].path.name])]


def _next_line(made: Exported, opened: Zoo, zoo: str, names: Sequence[str] | None) -> str:
    """Stock lm_eval on what was exported."""
    from lorafuse_bench.cli import _next
    from lorafuse_bench.zoo.pools import named

    model = str(made.path) if made.kind == "model" else f"{made.base},peft={made.path}"
    tasks = (task for entry in named(opened, names) for task in entry.tasks)
    return _next.harness(f"pretrained={model}", zoo, tasks)


def _push(out: Path, repo: str, yes: bool) -> Answer:
    from lorafuse_bench import hub
    from lorafuse_bench.cli import _next
    from lorafuse_bench.export import uploads

    files = uploads(out)
    told = uploaded(repo, files, hub.put(repo, files, f"Export {out.name}") if yes else None)
    again = [] if yes else [_next.command("lorafuse", "export", "--out", out, "--push", repo, "--yes")]
    return Answer(told.data, [*told.shown, *again])
