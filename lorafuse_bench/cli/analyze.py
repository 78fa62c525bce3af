"""`lorafuse analyze`: what training on many tasks at once did, as numbers and a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorafuse_bench.cli._numbers import above_zero
from lorafuse_bench.cli.run import RunCode
from lorafuse_bench.cli.train import Device, Dtype

if TYPE_CHECKING:
    from torch import Tensor

    from lorafuse_bench.fused import FusedModel

app = typer.Typer(help="Conflict, oblivion and routing of multi-task adapters.", no_args_is_help=True)

Out = Annotated[Path, typer.Option(help="Where the analysis goes: <name>.json and <name>.png.")]
Methods = Annotated[
    str, typer.Option(help="'all', or adapter methods separated by commas, options as name:option=value.")
]
ZooFolder = Annotated[str, typer.Option(help="A zoo with trained adapters.")]
Method = Annotated[str, typer.Option(help="A trained adapter whose router is read.")]
Suites = Annotated[str, typer.Option(help="Suites separated by commas, or tasks by name: piqa/boolq.")]
Data = Annotated[str | None, typer.Option(help="hub, mini, or a data directory; by default the zoo's.")]
Samples = Annotated[int, typer.Option(min=1, help="Evaluated prompts per task.")]
Module = Annotated[
    str | None, typer.Option(help="The module whose router is read; by default the first one that has one.")
]
Batch = Annotated[int, typer.Option(min=1, help="Rows per batch.")]


@app.command()
def conflict(
    folder: Annotated[Path, typer.Argument(help="Results to read; with --base, where zoos and results go.")],
    suite: Annotated[str, typer.Option(help="The suite whose tasks are added one by one.")] = "csr_mtl",
    out: Annotated[Path | None, typer.Option(help="Where the analysis goes; by default the folder.")] = None,
    base: Annotated[
        str | None,
        typer.Option(help="Train and evaluate what is missing, on this base: a folder, hub id, or mini."),
    ] = None,
    data: Annotated[str | None, typer.Option(help="hub, mini, or a data directory.")] = None,
    methods: Methods = "all",
    counts: Annotated[str | None, typer.Option(help="Numbers of tasks K; by default 2 to all.")] = None,
    order: Annotated[
        str | None, typer.Option(help="The tasks, easiest first; by default by the methods' mean scores.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Training seeds.")] = "0",
    oblivion: Annotated[
        str | None, typer.Option(help="Evaluate this suite too, under the same adapters.")
    ] = None,
    learning_rate: Annotated[
        float, typer.Option(callback=above_zero, help="Learning rate between warm-up and decay.")
    ] = 3e-4,
    epochs: Annotated[float, typer.Option(callback=above_zero, help="Passes over the rows.")] = 2.0,
    rows: Annotated[int | None, typer.Option(min=1, help="Training rows per task at most.")] = None,
    train_batch_size: Annotated[int, typer.Option(min=1, help="Rows per step.")] = 8,
    batch_size: Batch = 32,
    device: Device = "auto",
    dtype: Dtype = "auto",
    run_code: RunCode = False,
) -> None:
    """Mean score against the number of tasks trained on together, easiest first.

    With --base, adapters of every method are trained on the first K tasks, for every K and seed, and
    evaluated. Running the same command again continues where it stopped.
    """
    from lorafuse_bench.analysis import conflict as analysis
    from lorafuse_bench.analysis.curve import plot_curve
    from lorafuse_bench.analysis.study import RESULTS, Study, complete
    from lorafuse_bench.files import check_writable
    from lorafuse_bench.leaderboards.builder import build
    from lorafuse_bench.tasks.data import resolve_source
    from lorafuse_bench.tasks.suites import suite as suite_of
    from lorafuse_bench.training.settings import AdapterSettings

    check_writable(out or folder)
    if base is not None:
        settings = AdapterSettings(
            learning_rate=learning_rate, epochs=epochs, rows=rows, batch_size=train_batch_size
        )
        study = Study(
            out=folder,
            suite=suite,
            base=base,
            source=resolve_source(data, "mini" if base == "mini" else None),
            methods=_adapters(methods),
            seeds=_numbers(seeds),
            counts=_numbers(counts) if counts else range(2, len(suite_of(suite).tasks) + 1),
            settings=settings,
            oblivion=oblivion,
            order=tuple(order.split(",")) if order else None,
            batch_size=batch_size,
            device=device,
            dtype=dtype,
            run_code=run_code,
        )
        complete(study, typer.echo)
    results = folder / RESULTS if (folder / RESULTS).is_dir() else folder
    _write(analysis.conflict(build([results]).boards, suite), plot_curve, out or folder, "conflict")


@app.command()
def oblivion(
    results: Annotated[Path, typer.Argument(help="Results of the base and of adapted models on the suite.")],
    suite: Annotated[str, typer.Option(help="Tasks that nothing was trained on.")] = "or_mtl",
    out: Out = Path("."),
) -> None:
    """What the base could do before, what is left after, and the difference, per task and overall.

    With results of adapters of several numbers of tasks, also what is left against that number.
    """
    from lorafuse_bench.analysis import oblivion as analysis
    from lorafuse_bench.analysis.curve import plot_curve
    from lorafuse_bench.leaderboards.builder import build

    boards = build([results]).boards
    _write(analysis.oblivion(boards, suite), analysis.plot, out, "oblivion")
    against = analysis.against_tasks(boards, suite)
    if against:
        _write(against, plot_curve, out, "oblivion-against-tasks")


@app.command("routing-weights")
def routing_weights(
    zoo: ZooFolder,
    method: Method = "moore",
    suites: Suites = "csr_mtl",
    data: Data = None,
    samples: Samples = 100,
    module: Module = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    out: Out = Path("."),
) -> None:
    """Mean and standard deviation of every expert's weight, task by task."""
    from lorafuse_bench.analysis import routing as analysis

    keys = _tasks(suites, out)
    fused = _prepared(zoo, device, dtype, method)
    place, weights = _weights(fused, keys, _source(data, zoo), samples, module)
    result = {
        "schema": "lorafuse.analysis.routing_weights/1",
        "method": method,
        **_computed(fused),
        "module": place,
        "samples": samples,
        "tasks": analysis.spread(weights),
    }
    _write(result, analysis.plot_spread, out, "routing-weights")


@app.command()
def correlation(
    zoo: ZooFolder,
    method: Method = "moore",
    suites: Suites = "csr_mtl",
    data: Data = None,
    samples: Samples = 100,
    module: Module = None,
    results: Annotated[
        Path | None, typer.Option(help="Results on an oblivion suite, to show what its tasks lost.")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    out: Out = Path("."),
) -> None:
    """How far apart two tasks are by their mean routing weights: 0 alike, 1 the farthest pair."""
    from lorafuse_bench.analysis import routing as analysis
    from lorafuse_bench.leaderboards.builder import build

    keys = _tasks(suites, out)
    fused = _prepared(zoo, device, dtype, method)
    place, weights = _weights(fused, keys, _source(data, zoo), samples, module)
    result = {
        "schema": "lorafuse.analysis.correlation/1",
        "method": method,
        **_computed(fused),
        "module": place,
        "samples": samples,
        "tasks": list(weights),
        "change": analysis.changes(build([results]).boards, method) if results else {},
        "correlation": analysis.correlation(weights),
    }
    _write(result, analysis.plot_correlation, out, "correlation")


@app.command()
def latency(
    zoo: ZooFolder,
    methods: Methods = "all",
    suites: Suites = "csr_mtl",
    data: Data = None,
    batch_size: Batch = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; every method runs once a round.")] = 9,
    device: Device = "auto",
    dtype: Dtype = "auto",
    out: Out = Path("."),
) -> None:
    """Seconds per batch of every trained adapter against the base, in turns."""
    from itertools import chain, islice

    from lorafuse_bench.analysis import latency as analysis
    from lorafuse_bench.analysis.prompts import evaluation_prompts
    from lorafuse_bench.errors import LorafuseError
    from lorafuse_bench.fusion.adapters.trained import TrainedAdapter
    from lorafuse_bench.runner import all_methods
    from lorafuse_bench.zoo.manifest import Zoo

    keys, opened = _tasks(suites, out), Zoo.open(zoo)
    trained = [m for m in all_methods(opened) if isinstance(m, TrainedAdapter)]
    if not trained:
        raise LorafuseError(f"zoo '{zoo}' has no trained adapter. Train one with `lorafuse train adapter`.")
    fused = _prepared(zoo, device, dtype)
    prompts = evaluation_prompts(fused, keys, _source(data, zoo), batch_size)
    turns = zip(*([(key, row) for row in rows] for key, rows in prompts.items()), strict=False)
    result = analysis.latency(
        fused.model,
        opened,
        trained if methods == "all" else _adapters(methods),
        list(islice(chain.from_iterable(turns), batch_size)),
        rounds,
    )
    _write(result, analysis.plot, out, "latency")


def _prepared(zoo: str, device: str, dtype: str, method: str | None = None) -> FusedModel:
    """The zoo's base, under one of its adapters if one is named."""
    from lorafuse_bench.analysis.prompts import without_experts
    from lorafuse_bench.zoo.manifest import Zoo

    fused = without_experts(Zoo.open(zoo), device, dtype)
    if method:
        fused.use(_adapters(method)[0])
    return fused


def _weights(
    fused: FusedModel, keys: Sequence[str], source: str, samples: int, module: str | None
) -> tuple[str, dict[str, Tensor]]:
    """The module that was read, and task to `(samples, experts)`."""
    from lorafuse_bench.analysis.prompts import evaluation_prompts
    from lorafuse_bench.analysis.routing import routed_modules, routing_weights

    place = module or routed_modules(fused)[0]
    prompts = evaluation_prompts(fused, keys, source, samples)
    return place, routing_weights(fused, prompts, place)


def _computed(fused: FusedModel) -> dict[str, str]:
    """Where and in which type, as results record it."""
    from lorafuse_bench.device import Compute

    return Compute(fused.model.device, fused.model.dtype).record()


def _tasks(suites: str, out: Path) -> list[str]:
    """The tasks of all suites, each once; asked first, with a look whether `out` can be written to."""
    from lorafuse_bench.files import check_writable
    from lorafuse_bench.tasks.suites import suite as suite_of

    check_writable(out)
    return list(dict.fromkeys(key for name in suites.split(",") for key in suite_of(name.strip()).tasks))


def _source(data: str | None, zoo: str) -> str:
    from lorafuse_bench.tasks.data import resolve_source

    return resolve_source(data, zoo)


def _adapters(methods: str) -> list[Any]:
    """The adapter methods asked for; LorafuseError for any other."""
    from lorafuse_bench.errors import LorafuseError
    from lorafuse_bench.fusion import registry
    from lorafuse_bench.fusion.adapters.trained import TrainedAdapter

    known = {name: cls for name, cls in registry.methods().items() if issubclass(cls, TrainedAdapter)}
    chosen = [registry.parse(spec.strip()) for spec in (known if methods == "all" else methods.split(","))]
    for method in chosen:
        if not isinstance(method, TrainedAdapter):
            raise LorafuseError(
                f"method '{method.name}' is no trained adapter. These are: {', '.join(known)}."
            )
    return chosen


def _numbers(text: str) -> list[int]:
    from lorafuse_bench.errors import LorafuseError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise LorafuseError(f"'{text}' is not a list of whole numbers such as 2,5,9.") from error


def _write(result: Mapping[str, Any], plot: Callable[[Any, Path], None], folder: Path, name: str) -> None:
    from lorafuse_bench.files import write_json

    write_json(folder / f"{name}.json", result)
    plot(result, folder / f"{name}.png")
    typer.echo(f"{folder / name}.json and {name}.png")
