"""What must be alike before scores stand in one board; everything else is refused by file and field."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.schema import Result, Task

if TYPE_CHECKING:
    from lorafuse_bench.leaderboards.collect import Cell, Group

BASE, ORACLE = "base", "oracle"


def _experts(result: Result) -> Any:
    """The pool, in whatever order."""
    return sorted(expert.name + " " + expert.sha256 for expert in result.experts)


# Field -> what to do when two cells differ in it: of one board, of one zoo, of one row.
SAME_IN_BOARD = {
    "data.source": "Build them apart: scores on different rows do not compare.",
    "limit": "Build them apart: a limited run and a full one were scored on different rows.",
    "max_length": "Build them apart: one read more of each prompt than the other.",
    "truncation": "Build them apart: they cut prompts that are too long in other ways.",
    "base.dtype": "Build them apart, or run them alike.",
}
SAME_IN_ZOO = {
    "zoo.sha256": "The zoo changed between the runs: run the older cell again.",
    "base.sha256": "The base changed between the runs: run the older cell again.",
    "base.tokenizer_sha256": "The tokenizer changed between the runs: run the older cell again.",
    "experts": "Methods compare only on the same experts: run the other cell again.",
}
SAME_IN_ROW = {
    "method.version": "The method changed between the runs: run the older cell again.",
    "method.options": "One label must stand for one set of options: run the older cell again.",
}


_APART = "Give two cells of one suite, zoo and seed."


def check(group: Group, allow_limit: bool) -> None:
    """LorafuseError, naming file and field, for the first thing that keeps the cells from being compared."""
    zoos = [list(members.values()) for members in group.cells.values()]
    cells = [cell for members in zoos for cell in members]
    _require_same(cells, SAME_IN_BOARD)
    for cell in cells:
        _check_complete(cell, allow_limit)
    for label in {cell.label: None for cell in cells}:
        _require_same([cell for cell in cells if cell.label == label], SAME_IN_ROW)
    for seed, members in group.cells.items():
        _require_same(list(members.values()), SAME_IN_ZOO)
        _check_references(group, seed)
        for cell in members.values():
            _check_alike(cell, group.reference(seed))
            _check_documents(cell, group.reference(seed))
    first, *others = map(group.reference, group.cells)
    for other in others:
        _check_alike(other, first)


def check_pair(cell: Cell, other: Cell) -> None:
    """LorafuseError unless two cells were scored on the same documents by the same experts."""
    _require_same([cell, other], {"suite": _APART, "zoo.name": _APART, "zoo.seed": _APART})
    _require_same([cell, other], SAME_IN_BOARD | SAME_IN_ZOO)
    shared = [key for key in cell.result.tasks if key in other.result.tasks]
    if not shared:
        raise LorafuseError(f"{cell.path}: tasks: none that {other.path} has. Give two cells of one suite.")
    _check_alike(cell, other)
    _check_documents(cell, other)


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
                f" Run `lorafuse run --methods {label}`."
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
        for field in ("version", "few_shot", "n", "representative"):
            both = (getattr(t, field) for t in (task, other))
            _refuse_other(cell, reference, f"tasks.{key}.{field}", *both)
        _refuse_other(cell, reference, f"tasks.{key}.dataset", *_datasets(task, other))
        metrics = [t.metrics[task.representative] for t in (task, other)]
        for field in ("direction", "unit", "stderr_method"):
            where = f"tasks.{key}.metrics.{task.representative}.{field}"
            _refuse_other(cell, reference, where, *map(attrgetter(field), metrics))


def _shared(cell: Cell, reference: Cell) -> Iterator[tuple[str, Task]]:
    """The tasks that both have (a reference of a board has them all)."""
    return ((key, task) for key, task in cell.result.tasks.items() if key in reference.result.tasks)


def _datasets(task: Task, other: Task) -> list[dict[str, Any]]:
    """Both datasets; their revisions only where both are known."""
    known = task.dataset.revision and other.dataset.revision
    return [t.dataset.model_dump(exclude=None if known else {"revision"}) for t in (task, other)]


def _check_documents(cell: Cell, reference: Cell) -> None:
    """The very same documents, from the same files; lm-eval's own results do not say which files."""
    for key, task in _shared(cell, reference):
        served = [c.result.data.splits.get(key) for c in (cell, reference)]
        if None not in served:
            _refuse_other(cell, reference, f"data.splits.{key}", *served)
        if task.docs_sha256 != reference.result.tasks[key].docs_sha256:
            raise LorafuseError(
                f"{cell.path}: {key}.doc_hashes: other documents than {reference.path} scored."
                " Run the older again."
            )


def _refuse_other(cell: Cell, reference: Cell, field: str, mine: Any, theirs: Any) -> None:
    if mine != theirs:
        raise LorafuseError(
            f"{cell.path}: {field}: '{mine}', but {reference.path} has '{theirs}'. Run the older again."
        )


def _require_same(cells: Sequence[Cell], fields: dict[str, str]) -> None:
    for field, advice in fields.items():
        read = _experts if field == "experts" else attrgetter(field)
        for cell in cells[1:]:
            mine, theirs = read(cell.result), read(cells[0].result)
            if mine != theirs:
                raise LorafuseError(
                    f"{cell.path}: {field}: {_short(mine)}, but {cells[0].path} has {_short(theirs)}."
                    f" {advice}"
                )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
