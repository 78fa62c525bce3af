"""What must agree before scores may share a board; anything else is refused by file and field."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, JsonValue

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.results.difference import first_difference
from lorafuse_bench.leaderboards.results.plausible import check_defaults
from lorafuse_bench.leaderboards.results.schema import Result, Task

if TYPE_CHECKING:
    from lorafuse_bench.leaderboards.boards.collect import Cell, Group

Read = Callable[[Result], Any]


def _experts(result: Result) -> Any:
    """The pool by name, in whatever order."""
    return {expert.name: expert.model_dump(exclude={"name"}) for expert in result.experts}


def _names(result: Result) -> Any:
    return sorted(expert.name for expert in result.experts)


def _artefacts(result: Result) -> Any:
    return [artefact.name for artefact in result.artefacts]


def _base(result: Result) -> Any:
    return result.base.model_dump(exclude={"dtype"})


# Field, how to read it, and what to do when two cells differ in it: of one board, one zoo, one row, two zoos.
SAME_DEFINITION: dict[str, tuple[Read, str]] = {
    "definition": (
        attrgetter("definition"),
        "Build them apart: the suite was another when they ran, or run the older again.",
    ),
}
SAME_IN_BOARD: dict[str, tuple[Read, str]] = {
    "data.source": (attrgetter("data.source"), "Build them apart: scores on different rows do not compare."),
    "limit": (
        attrgetter("limit"),
        "Build them apart: a limited run and a full one were scored on different rows.",
    ),
    "max_length": (
        attrgetter("max_length"),
        "Build them apart: one read more of each prompt than the other.",
    ),
    "truncation": (
        attrgetter("truncation"),
        "Build them apart: they cut prompts that are too long in other ways.",
    ),
    "settings": (
        attrgetter("told"),
        "Build them apart: they were asked in other ways, or run them alike.",
    ),
    "base.dtype": (attrgetter("base.dtype"), "Build them apart, or run them alike."),
    "seeds": (attrgetter("seeds"), "Build them apart, or run them alike."),
}
SAME_IN_ZOO: dict[str, tuple[Read, str]] = {
    "zoo": (attrgetter("zoo"), "The zoo changed between the runs: run the older cell again."),
    "base": (_base, "The base changed between the runs: run the older cell again."),
    "experts": (_experts, "Methods compare only on the same experts: run the other cell again."),
}
SAME_IN_ROW: dict[str, tuple[Read, str]] = {
    "method.name": (attrgetter("method.name"), "One label must stand for one method."),
    "method.family": (attrgetter("method.family"), "One label must stand for one method."),
    "method.version": (
        attrgetter("method.version"),
        "The method changed between the runs: run the older cell again.",
    ),
    "artefacts": (_artefacts, "One label must stand for one kind of artefact: run the older cell again."),
}
_REPLICATES = "Zoos that share a name differ in seed alone: give the other zoo another name."
SAME_OVER_SEEDS: dict[str, tuple[Read, str]] = {
    "zoo.init": (attrgetter("zoo.init"), _REPLICATES),
    "base.repo": (attrgetter("base.repo"), _REPLICATES),
    "base.revision": (attrgetter("base.revision"), _REPLICATES),
    "experts": (_names, _REPLICATES),
}


_APART = "Give two cells of one suite, zoo and seed."
SAME_GRID: dict[str, tuple[Read, str]] = {
    field: (attrgetter(field), _APART) for field in ("suite", "zoo.name", "zoo.seed")
}


def check(group: Group, allow_limit: bool) -> None:
    """LorafuseError, naming file and field, for the first thing that keeps the cells from being compared."""
    zoos = [list(members.values()) for members in group.cells.values()]
    cells = [cell for members in zoos for cell in members]
    _require_same(cells, SAME_IN_BOARD)
    _check_definitions(cells)
    for cell in cells:
        _check_complete(cell, allow_limit)
    for label in {cell.label: None for cell in cells}:
        _require_same([cell for cell in cells if cell.label == label], SAME_IN_ROW)
    check_defaults([(cell.path, cell.result.method) for cell in cells])
    for seed, members in group.cells.items():
        _require_same(list(members.values()), SAME_IN_ZOO)
        _check_references(group, seed)
        for cell in members.values():
            _check_alike(cell, group.reference(seed))
            _check_documents(cell, group.reference(seed))
    first, *others = map(group.reference, group.cells)
    for other in others:
        _require_same([first, other], SAME_OVER_SEEDS)
        _check_alike(other, first)


def check_pair(cell: Cell, other: Cell) -> None:
    """LorafuseError unless two cells were scored on the same documents by the same experts."""
    _require_same([cell, other], SAME_GRID)
    _require_same([cell, other], SAME_IN_BOARD | SAME_IN_ZOO)
    _check_definitions([cell, other])
    shared = [key for key in cell.result.tasks if key in other.result.tasks]
    if not shared:
        raise LorafuseError(f"{cell.path}: tasks: none that {other.path} has. Give two cells of one suite.")
    _check_alike(cell, other)
    _check_documents(cell, other)


def _check_definitions(cells: Sequence[Cell]) -> None:
    """Of results that kept their suite; those of before have their tasks' metrics compared, as all have."""
    _require_same([cell for cell in cells if cell.result.definition], SAME_DEFINITION)


def _check_complete(cell: Cell, allow_limit: bool) -> None:
    if cell.result.limit is not None and not allow_limit:
        raise LorafuseError(
            f"{cell.path}: limit: {cell.result.limit}, so only a part of the rows was scored. Run without"
            " --limit, or build with --allow-limit: the board then says so."
        )
    for key, task in cell.result.tasks.items():
        if cell.result.limit is None and task.n != task.n_original:
            raise LorafuseError(
                f"{cell.path}: tasks.{key}.n: {task.n} of {task.n_original} items without a limit."
                " Run the cell again."
            )


def _check_references(group: Group, seed: int) -> None:
    """The base (floor, gate, and what was before) and the oracle (what scores are divided by), whole."""
    members = group.cells[seed]
    for label in group.references:
        if label not in members:
            some = next(iter(members.values())).path
            raise LorafuseError(
                f"{some.parent}: method.label: no {label} for {group.suite} on zoo {group.zoo}, seed {seed}."
                f" Run `lorafuse run --methods {label}`; where no expert is of these tasks, a suite of `kind: oblivion`"
                " compares with the base alone."
            )
        for key in group.tasks:
            if key not in members[label].result.tasks:
                raise LorafuseError(
                    f"{members[label].path}: tasks.{key}: missing, so nothing can be compared with it."
                    " Run the cell again."
                )


def _check_alike(cell: Cell, reference: Cell) -> None:
    """The same kind of rows, and the same metrics."""
    for key, task in _shared(cell, reference):
        other = reference.result.tasks[key]
        for field in ("version", "few_shot", "n", "n_original", "representative"):
            both = (getattr(t, field) for t in (task, other))
            _refuse_other(cell, reference, f"tasks.{key}.{field}", *both)
        filters = [t.filter for t in (task, other)]
        if None not in filters:
            _refuse_other(cell, reference, f"tasks.{key}.filter", *filters)
        asked = [t.model_dump(mode="json", include={"requests"})["requests"] for t in (task, other)]
        _refuse_other(cell, reference, f"tasks.{key}.requests", *asked)
        _refuse_other(cell, reference, f"tasks.{key}.dataset", *_datasets(task, other))
        metrics = [t.metrics[task.representative] for t in (task, other)]
        for field in ("direction", "unit", "stderr_method", "measure"):
            where = f"tasks.{key}.metrics.{task.representative}.{field}"
            values = [getattr(metric, field) for metric in metrics]
            if None not in values:  # a result of before the field was kept says nothing of it
                _refuse_other(cell, reference, where, *values)


def _shared(cell: Cell, reference: Cell) -> Iterator[tuple[str, Task]]:
    """The tasks that both have (a reference of a board has them all)."""
    return ((key, task) for key, task in cell.result.tasks.items() if key in reference.result.tasks)


MOVED = {"ybisk/piqa": {"hub": "baber/piqa", "name": None}}
"""Data sets whose rows are under another id now: results of before and after compare, if their documents do."""


def _datasets(task: Task, other: Task) -> list[dict[str, Any]]:
    """Both datasets by the ids they have now; their revisions only where both are known."""
    known = task.dataset.revision and other.dataset.revision
    both = [t.dataset.model_dump(exclude=None if known else {"revision"}) for t in (task, other)]
    return [named | MOVED.get(named["hub"], {}) for named in both]


def _files(served: JsonValue) -> JsonValue:
    """Split to file, without the folder, which names the data set."""
    if not isinstance(served, dict):
        return served
    return {split: str(file).rpartition("/")[2] for split, file in served.items()}


def _check_documents(cell: Cell, reference: Cell) -> None:
    """The very same documents, from the same files; lm-eval's own results do not say which files."""
    for key, task in _shared(cell, reference):
        served = [_files(c.result.data.splits.get(key)) for c in (cell, reference)]
        if None not in served:
            _refuse_other(cell, reference, f"data.splits.{key}", *served)
        if task.docs_sha256 != reference.result.tasks[key].docs_sha256:
            raise LorafuseError(
                f"{cell.path}: {key}.doc_hashes: other documents than {reference.path} scored."
                " Run the older again."
            )


def _refuse_other(cell: Cell, reference: Cell, field: str, mine: Any, theirs: Any) -> None:
    _refuse(cell, reference, field, mine, theirs, "Run the older again.")


def _require_same(cells: Sequence[Cell], fields: dict[str, tuple[Read, str]]) -> None:
    for field, (read, advice) in fields.items():
        for cell in cells[1:]:
            _refuse(cell, cells[0], field, read(cell.result), read(cells[0].result), advice)


def _refuse(cell: Cell, other: Cell, field: str, mine: Any, theirs: Any, advice: str) -> None:
    """LorafuseError at the first place where two values of a field differ."""
    mine, theirs = (v.model_dump(mode="json") if isinstance(v, BaseModel) else v for v in (mine, theirs))
    found = first_difference(mine, theirs, field)
    if found:
        a, b = found.texts()
        raise LorafuseError(f"{cell.path}: {found.where}: {a}, but {other.path} has {b}. {advice}")
