"""Where the numbers of a board come from: its zoos, its environment, and the caption that says so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lorafuse_bench.leaderboards import reported
from lorafuse_bench.leaderboards.boards.board import Column, Provenance, Replicate, Row
from lorafuse_bench.leaderboards.boards.collect import Cell, Group
from lorafuse_bench.leaderboards.results.made_of import Settings

MANY_EMPTY = 0.05
"""Share of empty answers that a board's caption names."""


MEASURED = 100
"""Items of a task from which the standard error of a share is at most .05."""


def replicate_of(seed: int, reference: Cell) -> Replicate:
    result = reference.result
    return Replicate(
        seed=seed,
        sha256=result.zoo.sha256,
        base_sha256=result.base.sha256,
        init=result.zoo.init,
        experts=tuple(expert.name for expert in result.experts),
    )


def provenance_of(group: Group) -> Provenance:
    cells = [cell for _, members in sorted(group.cells.items()) for _, cell in sorted(members.items())]
    first = cells[0].result
    versions: dict[str, set[str]] = {}
    commits, hardware = set(), set()
    for environment in (cell.result.environment for cell in cells):
        for package, version in environment.versions.items():
            versions.setdefault(package, set()).add(version)
        if environment.git_commit:
            commits.add(environment.git_commit + ("+" if environment.git_dirty else ""))
        hardware.add(environment.hardware)
    return Provenance(
        base=first.base.repo,
        dtype=first.base.dtype,
        data=first.data.source,
        splits={str(seed): group.reference(seed).result.data.splits for seed in group.cells},
        limit=first.limit,
        versions={package: tuple(sorted(found)) for package, found in sorted(versions.items())},
        commits=tuple(sorted(commits)),
        hardware=tuple(sorted(hardware)),
    )


def caption(
    group: Group, columns: tuple[Column, ...], provenance: Provenance, note: str, rows: Sequence[Row]
) -> str:
    """What the table shows and how far it can be trusted."""
    seeds = sorted(group.cells)
    sizes = sorted({column.n for column in columns})
    items = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else str(sizes[0])
    parts = [note.strip()] if note.strip() else []
    if provenance.limit is not None:
        parts.append(_limited(provenance.limit))
    parts.append(
        f"Suite {group.suite} on zoo {group.zoo}, {_counted(len(seeds), 'seed')}"
        f" ({', '.join(map(str, seeds))});"
        f" base model {provenance.base}, {provenance.dtype}; {_data(provenance.data)};"
        f" {items} items per task."
    )
    parts += _asked(group.reference(seeds[0]).result.told)
    parts += _before_and_after(columns) if group.oblivion else _over_the_oracle(columns, group.losses)
    parts.append(
        "± is the standard deviation over seeds." if len(seeds) > 1 else "± is one standard error over items."
    )
    if sum(row.rank is not None for row in rows) > 1:
        parts.append("A rank is the span of places that the items leave a method, 95% for all together.")
    parts += _empty_answers(group)
    parts += protocols(group.suite)
    changed = [row.label for row in rows if len(row.sources) > 1]
    if changed:
        parts.append(f"Code changed between the cells, the version did not: {', '.join(changed)}.")
    return " ".join(parts)


def _asked(settings: Settings) -> Iterator[str]:
    """What every prompt was put in, and what replaced the tasks' own settings."""
    if settings.chat_template is not None:
        yield f"Asked in the model's chat template '{settings.chat_template}'."
    if settings.system_instruction is not None:
        yield f"Before every prompt: '{settings.system_instruction}'."
    replaced = settings.generation | settings.model
    if replaced:
        said = ", ".join(f"{name}={value}" for name, value in replaced.items())
        yield f"Set by hand: {said}."


def _empty_answers(group: Group) -> Iterator[str]:
    """Which methods left many answers empty, where: their scores say little of what they know."""
    shares: dict[str, dict[str, list[float]]] = {}
    for _, members in sorted(group.cells.items()):
        for label, cell in sorted(members.items()):
            for key, task in cell.result.tasks.items():
                if task.empty_share is not None:
                    shares.setdefault(label, {}).setdefault(key, []).append(task.empty_share)
    said = []
    for label, tasks in shares.items():
        means = {key: sum(each) / len(each) for key, each in tasks.items()}
        many = [f"{key} {mean:.0%}" for key, mean in means.items() if mean > MANY_EMPTY]
        if many:
            said.append(f"{label} ({', '.join(many)})")
    if said:
        yield f"More than {MANY_EMPTY:.0%} of the answers are empty: {', '.join(said)}."


def protocols(suite: str) -> Iterator[str]:
    """How papers whose rows stand on the board evaluate otherwise, each difference once."""
    by_protocol: dict[str, list[str]] = {}
    for table in reported.tables_of(suite):
        if table.protocol:
            by_protocol.setdefault(table.protocol, []).append(f"{table.paper}, {table.table}")
    for protocol, tables in by_protocol.items():
        yield f"Another protocol ({'; '.join(tables)}): {protocol}"


def _limited(limit: float) -> str:
    part = f"the first {limit:g} items" if limit >= 1 else f"{limit:.0%} of the items"
    said = f"LIMITED RUN: only {part} of each task were scored"
    return f"{said}." if limit >= MEASURED else f"{said}; a check that things run, not a measurement."


def _over_the_oracle(columns: tuple[Column, ...], losses: bool) -> Iterator[str]:
    if losses:
        yield (
            f"Loss is the unweighted mean over {_counted(len(columns), 'task')} in {columns[0].unit}; methods rank by"
            " how far theirs is above the oracle's (each task's own expert) on the same items, lower is better."
            " Recovered is (base - method) / (base - oracle), mean over the tasks that count; '± tasks' is"
            " sd/sqrt(tasks) of the loss."
        )
        return
    counted = [c.task for c in columns if c.counts and c.direction == "up"]
    ability = f"ability is their mean over {len(counted)} of {_counted(len(columns), 'task')}"
    if not counted:
        ability = "no task counts here, so no method has an ability"
    yield (
        "Normalised scores are the representative metric over that of the oracle (each task's own expert)"
        f" on the same items; {ability}."
    )
    if any(column.direction == "down" for column in columns):
        yield "Losses are shown minus the oracle's and stay out of the mean."


def _before_and_after(columns: tuple[Column, ...]) -> Iterator[str]:
    scores = sum(column.direction == "up" for column in columns)
    yield (
        "No expert was trained for these tasks: the base alone is before, a method is after, on the same"
        f" items. Overall is the mean of the raw scores over {_counted(scores, 'task')}; nothing is ranked."
    )
    if scores < len(columns):
        yield "Losses stay out of the mean."


def _data(source: str) -> str:
    return f"data: {source}" if source in ("hub", "mini") else f"data: folder {source}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
