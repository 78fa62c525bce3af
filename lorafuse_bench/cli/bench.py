"""`lorafuse bench`: what methods cost, measured side by side on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorafuse_bench.cli import _checked
from lorafuse_bench.cli._answers import Answer, answers
from lorafuse_bench.cli._options import Device, Dtype

if TYPE_CHECKING:
    from lorafuse_bench.bench.models import Shape

app = typer.Typer(help="Measure speed and memory against the base model and PEFT.", no_args_is_help=True)

Out = Annotated[
    Path | None, typer.Option(callback=_checked.file, help="Write the numbers to this JSON file.")
]
Plot = Annotated[Path | None, typer.Option(callback=_checked.file, help="Write a PNG to this file.")]
Rounds = Annotated[int, typer.Option(min=1, help="Rounds; every alternative runs once a round.")]
Architecture = Annotated[str, typer.Option(help="qwen2 or llama.")]


@app.command()
@answers
def merge(
    out: Out = None,
    shapes: Annotated[
        str, typer.Option(help="Linear maps to merge for, out x in, separated by commas.")
    ] = "896x896,1536x1536,4864x896",
    experts: Annotated[int, typer.Option(min=2, help="Experts to merge.")] = 8,
    rank: Annotated[int, typer.Option(min=1, help="Rank of each expert.")] = 8,
    rounds: Rounds = 3,
) -> Answer:
    """svd against PEFT's svd, knots against a dense fp64 SVD, and peak extra memory."""
    from lorafuse_bench.bench import merge as bench

    chosen = [_shape(text) for text in shapes.split(",")]
    return _report(_measured(bench.run, chosen, experts=experts, rank=rank, rounds=rounds), out)


@app.command()
@answers
def many(
    out: Out = None,
    methods: Annotated[
        str, typer.Option(help="Methods to time, separated by commas.")
    ] = "svd,ties,knots,arrow,spectr",
    shapes: Annotated[
        str, typer.Option(help="Linear maps to fuse for, out x in, separated by commas.")
    ] = "576x576,192x576",
    experts: Annotated[int, typer.Option(min=2, help="Experts to fuse.")] = 128,
    rank: Annotated[int, typer.Option(min=1, help="Rank of each expert.")] = 8,
    against: Annotated[
        Path | None,
        typer.Option(help="The Python of another checkout's environment, to compare with."),
    ] = None,
    rounds: Rounds = 3,
) -> Answer:
    """Seconds of fusing many experts and of loading them, here and by another checkout in turns."""
    from lorafuse_bench.bench import many as bench

    chosen = [_shape(text) for text in shapes.split(",")]
    result = _measured(bench.run, _words(methods), chosen, experts, rank, rounds, against)
    lines = [
        f"{name}: {1e3 * sides['ours']['seconds']:.1f} ms a map, {1e3 * cpu['ours']['seconds']:.1f} of processor time"
        for (name, sides), cpu in zip(
            result["seconds_a_map"].items(), result["cpu_seconds_a_map"].values(), strict=True
        )
    ]
    return _report(result, out, *lines)


@app.command()
@answers
def forward(
    out: Out = None,
    plot: Plot = None,
    architecture: Architecture = "qwen2",
    experts: Annotated[str, typer.Option(help="Numbers of experts to compare with PEFT at.")] = "8,32",
    sweep: Annotated[str, typer.Option(help="Numbers of experts for the cost against N.")] = "8,32,128,256",
    rounds: Rounds = 9,
) -> Answer:
    """Routers and one expert per row against the base and PEFT, and the cost against N."""
    from lorafuse_bench.bench import forward as bench
    from lorafuse_bench.bench.plot import plot_sweep

    result = _measured(
        bench.run,
        _architecture(architecture),
        _numbers(experts),
        sweep_experts=_numbers(sweep),
        rounds=rounds,
    )
    if plot is not None:
        plot_sweep(result, plot)
    return _report(result, out, *([f"plot: {plot}"] if plot else []))


@app.command()
@answers
def adapters(
    out: Out = None,
    architecture: Architecture = "qwen2",
    hidden_size: Annotated[int, typer.Option(min=64, help="Hidden size of the base.")] = 512,
    batch: Annotated[int, typer.Option(min=1, help="Rows per batch.")] = 8,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens per row.")] = 64,
    rounds: Rounds = 9,
) -> Answer:
    """Multi-task adapters at inference against the base, and against the operations they add."""
    from dataclasses import replace

    from lorafuse_bench.bench import adapters as bench

    shape = replace(_architecture(architecture), hidden_size=hidden_size)
    return _report(_measured(bench.run, shape, batch, tokens, rounds), out)


@app.command()
@answers
def train(
    base: Annotated[str, typer.Option(help="A model folder, a hub id, or mini.")] = "mini",
    data: Annotated[str, typer.Option(help="hub, mini, or a data directory.")] = "mini",
    tasks: Annotated[str, typer.Option(help="Task keys separated by commas.")] = "sst2,squad",
    steps: Annotated[int, typer.Option(min=1, help="Steps of one timed run.")] = 16,
    batch: Annotated[int, typer.Option(min=1, help="Rows per step.")] = 8,
    cutoff: Annotated[int, typer.Option(min=8, help="Longest row in tokens.")] = 512,
    device: Device = "auto",
    dtype: Dtype = "auto",
    rounds: Rounds = 3,
    out: Out = None,
) -> Answer:
    """Training an expert here against a plain loop of PEFT and transformers' Trainer, on the same rows."""
    from lorafuse_bench.bench import training as bench

    return _report(
        _measured(bench.run, base, data, _words(tasks), steps, batch, rounds, cutoff, device, dtype), out
    )


@app.command()
@answers
def fit(
    out: Out = None,
    architecture: Architecture = "qwen2",
    experts: Annotated[int, typer.Option(min=2, help="Experts that steps are timed with.")] = 10,
    batch: Annotated[int, typer.Option(min=1, help="Rows of a step.")] = 8,
    tokens: Annotated[int, typer.Option(min=8, help="Tokens of a row, a quarter of them targets.")] = 128,
    matrix: Annotated[int, typer.Option(min=2, help="Experts and tasks of the loss matrix.")] = 32,
    rows: Annotated[int, typer.Option(min=1, help="Rows of each of its tasks.")] = 4,
    opening: Annotated[int, typer.Option(min=0, help="Tokens that all rows of such a task begin with.")] = 0,
    rounds: Rounds = 5,
) -> Answer:
    """Fits against PEFT: steps, the loss matrix, and ensemble weights from cached scores."""
    from lorafuse_bench.bench import fit as bench

    shape = _architecture(architecture)
    return _report(
        _measured(bench.run, shape, experts, batch, tokens, matrix, rows, rounds, opening=opening), out
    )


@app.command()
@answers
def losses(
    zoo: Annotated[str, typer.Option(help="The zoo whose experts are compared.")],
    suite: Annotated[str, typer.Option(help="The suite whose tasks they are asked.")],
    data: Annotated[str, typer.Option(help="hub, mini, or a data directory.")],
    out: Out = None,
    size: Annotated[int, typer.Option(min=2, help="The first tasks of the suite, and their experts.")] = 8,
    rows: Annotated[int, typer.Option(min=1, help="Dev rows of each task.")] = 4,
    device: Device = "auto",
    dtype: Dtype = "auto",
    rounds: Rounds = 3,
) -> Answer:
    """The loss matrix of a zoo's own experts and rows against a loop over PEFT's adapters."""
    from lorafuse_bench.bench import losses as bench

    return _report(_measured(bench.run, zoo, suite, data, size, rows, rounds, device, dtype), out)


@app.command()
@answers
def prefix(
    out: Out = None,
    architecture: Architecture = "qwen2",
    documents: Annotated[int, typer.Option(min=1, help="Documents of four choices each.")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="Rows per batch, for both sides.")] = 16,
    shots: Annotated[
        int, typer.Option(min=1, help="Examples before each question of the few-shot work.")
    ] = 5,
    rounds: Rounds = 5,
) -> Answer:
    """Multiple choice with shared prefixes against stock lm-eval's hf model."""
    from lorafuse_bench.bench import prefix as bench

    shape = _architecture(architecture)
    return _report(
        _measured(bench.run, shape, documents=documents, batch=batch, shots=shots, rounds=rounds), out
    )


@app.command()
@answers
def grid(
    out: Out = None,
    methods: Annotated[
        str, typer.Option(help="Base and merges that PEFT's format holds, separated by commas.")
    ] = "base,concat,weight_sum,merge_uniform,svd,knots,tsv,core_space,iso_c,iso_cts",
    suite: Annotated[str, typer.Option(help="The suite that every method is asked.")] = "mtl7",
    zoo: Annotated[str, typer.Option(help="A zoo directory, or the name of an installed zoo.")] = "mini",
    data: Annotated[
        str | None, typer.Option(help="hub, mini, or a data directory; by default the zoo's.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Items of each task.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per batch.")] = 32,
    workers: Annotated[int, typer.Option(min=2, help="Workers that are compared with one.")] = 2,
    engines: Annotated[
        str | None,
        typer.Option(help="Where those are: local, ray or local,ray; by default all that are installed."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; ratios are medians.")] = 1,
    loop: Annotated[
        bool, typer.Option(help="Run the loop of stock lm_eval; without it, any method may be named.")
    ] = True,
) -> Answer:
    """One run of many methods, alone and by workers, against a shell loop of stock lm_eval --model hf."""
    from importlib.util import find_spec

    from lorafuse_bench.bench import grid as bench

    there = _words(engines) if engines else ["local", *(["ray"] if find_spec("ray") else [])]
    asked = bench.Asked(methods, suite, limit, zoo, data, batch_size, workers, there, rounds, loop)
    return _report(_measured(bench.run, asked), out)


@app.command()
@answers
def serve(
    out: Out = None,
    plot: Plot = None,
    into: Annotated[
        Path | None,
        typer.Option(help="Enter vLLM's cost into the results of `lorafuse run` in this folder."),
    ] = None,
    backends: Annotated[
        str, typer.Option(help="Among vllm, hf, peft, separated by commas.")
    ] = "vllm,hf,peft",
    methods: Annotated[
        str, typer.Option(help="Methods served as one adapter per sequence, separated by commas.")
    ] = "base,oracle,moa,svd,concat",
    mix: Annotated[
        str, typer.Option(help="How tasks are mixed: uniform, zipf, single, separated by commas.")
    ] = "uniform",
    concurrency: Annotated[str, typer.Option(help="Requests at a time, separated by commas.")] = "1,8,32",
    zoo: Annotated[str, typer.Option(help="A zoo directory, or 'mini', the embedded one.")] = "mini",
    suite: Annotated[str, typer.Option(help="The suite whose prompts are asked.")] = "mtl7",
    requests: Annotated[int, typer.Option(min=1, help="Requests of one pass.")] = 128,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens written for each request.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="Passes; rates are their medians.")] = 3,
    dtype: Annotated[
        str, typer.Option(callback=_checked.dtype, help="Type the models compute in.")
    ] = "float32",
) -> Answer:
    """Throughput and latency of methods on vLLM, on our wrapper and on PEFT's mixed batch.

    Finished measurements are kept in --out: the same command goes on from there.
    """
    from lorafuse_bench.bench import serve as bench
    from lorafuse_bench.bench.plot import plot_serve
    from lorafuse_bench.progress import Display

    load = bench.Load(zoo, suite, requests, new_tokens, rounds, dtype)
    with Display() as display:
        result = bench.run(
            load, _words(backends), _words(methods), _words(mix), _numbers(concurrency), out, display
        )
    lines = []
    if plot is not None:
        plot_serve(result, plot)
        lines.append(f"plot: {plot}")
    if into is not None:
        lines.append(f"cost entered into {len(bench.enter(result, into))} results below {into}")
    return _report(result, out, *lines)


@app.command()
@answers
def leaderboard(
    out: Out = None,
    methods: Annotated[int, typer.Option(min=1, help="Methods besides base and oracle.")] = 100,
    tasks: Annotated[int, typer.Option(min=1, help="Tasks.")] = 20,
    items: Annotated[int, typer.Option(min=2, help="Items of each task.")] = 1000,
) -> Answer:
    """Building a large board of made-up results: seconds and memory."""
    from lorafuse_bench.bench import leaderboard as bench

    result = _measured(bench.run, methods, tasks, items)
    return _report(
        result,
        out,
        f"{methods} methods x {tasks} tasks x {items:,} items, {result['draws']:,} bootstrap draws",
        f"{result['cpu_seconds']:.1f} processor seconds",
    )


def _architecture(name: str) -> Shape:
    from lorafuse_bench.bench.models import Shape
    from lorafuse_bench.errors import unknown

    if name not in ("qwen2", "llama"):
        raise unknown("architecture", name, ("qwen2", "llama"))
    return Shape(name)


def _shape(text: str) -> tuple[int, int]:
    from lorafuse_bench.errors import LorafuseError

    parts = text.strip().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) for part in parts):
        raise LorafuseError(f"--shapes: '{text}' is not OUTxIN, such as 896x896. Write it so.")
    return int(parts[0]), int(parts[1])


def _words(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _numbers(text: str) -> list[int]:
    from lorafuse_bench.errors import LorafuseError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) for part in parts):
        raise LorafuseError(f"'{text}' is not a list of numbers, such as 8,32. Write it so.")
    return [int(part) for part in parts]


def _measured(run: Callable[..., dict[str, Any]], *given: Any, **options: Any) -> dict[str, Any]:
    """What a measurement finds, under a live display."""
    from lorafuse_bench.progress import Display

    with Display():
        return run(*given, **options)


def _report(result: dict[str, Any], out: Path | None, *lines: str) -> Answer:
    """What was measured on what, and every target; the numbers are kept in `out`."""
    from lorafuse_bench.files import write_json
    from lorafuse_bench.tables import Table

    if out is not None:
        write_json(out, result)
        lines = (*lines, f"numbers: {out}")
    where = result["machine"]
    load = "" if where["load"] is None else f", load {where['load']:.1f}"
    rows = []
    for line in result["targets"]:
        bound = f">= {line['at_least']:g}" if line["at_least"] is not None else f"<= {line['at_most']:g}"
        rows.append((line["what"], f"{line['value']:.2f}", bound, "yes" if line["met"] else "no"))
    title = f"{where['processor']}, {where['cores']} cores, {where['threads']} threads{load}"
    return Answer(result, [Table(("measured", "value", "bound", "met"), rows, title=title), *lines])
