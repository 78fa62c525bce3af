"""`lorafuse analyze`: what training on many tasks at once did, as numbers and a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from lorafuse_bench.analysis.study import Study

app = typer.Typer(help="Conflict, oblivion and routing of multi-task adapters.", no_args_is_help=True)

Out = Annotated[Path, typer.Option(help="Where the analysis goes: <name>.json and <name>.png.")]
Methods = Annotated[
    str, typer.Option(help="'all', or adapter methods separated by commas, options as name:option=value.")
]
Batch = Annotated[int, typer.Option(min=1, help="Rows per batch.")]


@app.command()
def conflict(
    folder: Annotated[Path, typer.Argument(help="Results to read; with --base, where zoos and results go.")],
    suite: Annotated[str, typer.Option(help="The suite whose tasks are added one by one.")] = "csr_mtl",
    out: Annotated[Path | None, typer.Option(help="Where the analysis goes; by default the folder.")] = None,
    base: Annotated[
        str | None, typer.Option(help="Train and evaluate what is missing, on this base: a folder, hub id, or mini.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="hub, mini, or a data directory.")] = None,
    methods: Methods = "all",
    counts: Annotated[str | None, typer.Option(help="Numbers of tasks K; by default 2 to all.")] = None,
    order: Annotated[
        str | None, typer.Option(help="The tasks, easiest first; by default by the methods' mean scores.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Training seeds.")] = "0",
    oblivion: Annotated[
        str | None, typer.Option(help="Evaluate this suite too, under the adapters of all tasks.")
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="Learning rate between warm-up and decay.")] = 3e-4,
    epochs: Annotated[float, typer.Option(min=0, help="Passes over the rows.")] = 2.0,
    rows: Annotated[int | None, typer.Option(min=1, help="Training rows per task at most.")] = None,
    train_batch_size: Annotated[int, typer.Option(min=1, help="Rows per step.")] = 8,
    batch_size: Batch = 32,
) -> None:
    """Mean score against the number of tasks trained on together, easiest first.

    With --base, adapters of every method are trained on the first K tasks, for every K and seed, and
    evaluated. Running the same command again continues where it stopped.
    """
    from lorafuse_bench.analysis import conflict as analysis
    from lorafuse_bench.analysis.study import RESULTS, Study, complete
    from lorafuse_bench.leaderboards.builder import build
    from lorafuse_bench.tasks.data import resolve_source
    from lorafuse_bench.tasks.suites import suite_tasks
    from lorafuse_bench.training.adapters import AdapterSettings

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
            counts=_numbers(counts) if counts else range(2, len(suite_tasks(suite)) + 1),
            settings=settings,
            oblivion=oblivion,
            order=tuple(order.split(",")) if order else None,
            batch_size=batch_size,
        )
        complete(study, typer.echo)
    results = folder / RESULTS if (folder / RESULTS).is_dir() else folder
    _write(analysis.conflict(build([results]).boards, suite), analysis.plot, out or folder, "conflict")


@app.command()
def oblivion(
    results: Annotated[Path, typer.Argument(help="Results of the base and of adapted models on the suite.")],
    suite: Annotated[str, typer.Option(help="Tasks that nothing was trained on.")] = "or_mtl",
    out: Out = Path("."),
) -> None:
    """What the base could do before, what is left after, and the difference, per task and overall."""
    from lorafuse_bench.analysis import oblivion as analysis
    from lorafuse_bench.leaderboards.builder import build

    _write(analysis.oblivion(build([results]).boards, suite), analysis.plot, out, "oblivion")


def _adapters(methods: str) -> list[Any]:
    """The adapter methods asked for; LorafuseError for any other."""
    from lorafuse_bench.errors import LorafuseError
    from lorafuse_bench.fusion import registry
    from lorafuse_bench.fusion.adapters.trained import TrainedAdapter

    known = {name: cls for name, cls in registry.methods().items() if issubclass(cls, TrainedAdapter)}
    chosen = [registry.parse(spec.strip()) for spec in (known if methods == "all" else methods.split(","))]
    for method in chosen:
        if not isinstance(method, TrainedAdapter):
            raise LorafuseError(f"method '{method.name}' is no trained adapter. These are: {', '.join(known)}.")
    return chosen


def _numbers(text: str) -> list[int]:
    from lorafuse_bench.errors import LorafuseError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise LorafuseError(f"'{text}' is not a list of whole numbers such as 2,5,9.") from error


def _write(
    result: Mapping[str, Any], plot: Callable[[Any, Path], None], folder: Path, name: str
) -> None:
    from lorafuse_bench.files import write_json

    write_json(folder / f"{name}.json", result)
    plot(result, folder / f"{name}.png")
    typer.echo(f"{folder / name}.json and {name}.png")
