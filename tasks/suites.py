"""A suite: which tasks belong together, and which metric speaks for each.

A suite is a group of lm-eval's, one YAML file, so `lm_eval --tasks` runs it too. What boards ask beyond that stands
under `metadata: lorafuse:` of the group (`SuiteFacts`) and of each task (`TaskFacts`); docs/extending/task.md has the
form. Where nobody names a task's main metric it is chosen by a rule, and the suite says by which.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from lorafuse_bench.errors import LorafuseError, did_you_mean
from lorafuse_bench.leaderboards import measures
from lorafuse_bench.leaderboards.measures import Reading
from lorafuse_bench.tasks import catalogue
from lorafuse_bench.tasks.facts import FACTS, Direction, Suite, SuiteFacts, SuiteTask, TaskFacts
from lorafuse_bench.tasks.listed import Listed, listed_metrics
from lorafuse_bench.tasks.members import INSIDE, Member, members, suite_facts

PREFIX = "lorafuse_"
OPTIONS = "_options"
DATASET = ("dataset_path", "dataset_name", "dataset_kwargs")
RULE = (
    "the first metric listed that is a mean over items or bits_per_byte, else the first that a measure makes of items,"
    " with the first filter"
)


def forget() -> None:
    """Read suites and tasks again when they are next asked for: their files may have been edited."""
    catalogue.forget()
    _named.cache_clear()


def suite_names() -> list[str]:
    """The groups that declare themselves suites, lm-eval's own left out."""
    return sorted(name for name, file in catalogue.ours().items() if file.group and _declared(file.path))


def _declared(path: Path) -> bool:
    try:
        return FACTS in (catalogue.read(path).get("metadata") or {})
    except (LorafuseError, TypeError):  # refused when it is named
        return False


def suite(name: str) -> Suite:
    """The suite of that name; of a YAML file; or of tasks by key or name, such as `piqa` and `piqa/arc_easy`.

    Raises LorafuseError for what exists nowhere and for a definition that is not right.
    """
    return _of_file(Path(name)) if name.endswith((".yaml", ".yml")) else _named(name, catalogue.places())


@cache
def _named(name: str, _: tuple[str, ...]) -> Suite:
    """The suite of a name, read once for each list of places that are searched."""
    words = name.split("/")
    found = catalogue.ours().get(name) or (None if _own(name) else catalogue.find(name))
    if found is not None and found.group:
        return _of_group(found.path, catalogue.config(found))
    if len(set(words)) < len(words):
        raise LorafuseError(f"suite '{name}' names a task twice. Name each once.")
    return _of_members([member for word in words for member in _of_word(word, len(words))])


def _of_word(word: str, words: int) -> list[Member]:
    """The tasks that a word stands for: one and its twin by likelihood, one inside a group, or those of a tag."""
    file = _own(word) or catalogue.find(word)
    if file is not None and not file.group:
        twin = catalogue.ours().get(file.name + OPTIONS) if file.name.startswith(PREFIX) else None
        return [Member.of(each) for each in (file, twin) if each]
    found = [] if file else _inside(word) or [Member.of(each) for each in catalogue.tagged(word)]
    if not found:
        raise _unknown("suite" if words == 1 else "task", word)
    return found


def _inside(name: str) -> list[Member]:
    """The task that a group of ours defines, by its key or lm-eval's name of it, `group::key`."""
    group, _, key = name.rpartition(INSIDE)
    for file in catalogue.ours().values():
        if file.group and group in ("", file.name):
            entries = catalogue.read(file.path).get("task") or ()
            if key in (entry.get("task") for entry in entries if isinstance(entry, dict)):
                leaf = f"{file.name}{INSIDE}{key}"
                return [each for each in members(file.path, catalogue.read(file.path)) if each.leaf == leaf]
    return []


def suite_of_leaves(names: Sequence[str], groups: Iterable[str]) -> Suite:
    """The suite that lm-eval was asked for, from the tasks and groups it loaded.

    It is the group that holds just these tasks, else the tasks by name. LorafuseError where one of them is in no
    file, or has no main metric.
    """
    for group in groups:
        file = catalogue.find(group)
        if file and file.group:
            found = _of_group(file.path, catalogue.config(file))
            if set(found.leaves) == set(names):
                return found
    return _of_members([_of_leaf(name) for name in names])


def _of_leaf(name: str) -> Member:
    file = catalogue.find(name)
    found = [Member.of(file)] if file and not file.group else _inside(name)
    if not found:
        raise _unknown("task", name)
    return found[0]


def _of_members(found: Iterable[Member]) -> Suite:
    """Tasks by name, sorted by key as lm-eval sorts what it is asked for; losses alone are a suite of losses."""
    ordered = sorted(found, key=lambda member: (task_key(member.leaf), member.leaf))
    name = "/".join(dict.fromkeys(task_key(member.leaf) for member in ordered))
    made = _resolved(SuiteFacts(), name, ordered)
    losses = all(task.unit in measures.LOSSES for task in made.tasks.values())
    return made.model_copy(update={"kind": "loss"}) if losses else made


def task(key: str) -> SuiteTask:
    """The definition of one task by its key or lm-eval's name; LorafuseError where there is none."""
    file = _own(key) or catalogue.find(key)
    if (file is None and not _inside(key)) or (file is not None and file.group):
        raise _unknown("task", key)
    return suite(file.name if file else key).tasks[task_key(file.name if file else key)]


def suites() -> Iterator[Suite]:
    """The suites of `suite_names`."""
    return map(suite, suite_names())


def of_oblivion(name: str) -> bool:
    """Whether there is a suite of that name, and of that kind."""
    file = catalogue.ours().get(name)
    return file is not None and file.group and suite(name).kind == "oblivion"


def task_key(task_name: str) -> str:
    """`lorafuse_sst2` and `lorafuse_sst2_options` -> `sst2`; `flan::x` -> `x`; any other name is its own key."""
    if not task_name.startswith(PREFIX):
        return task_name.rpartition(INSIDE)[2]
    return task_name.removeprefix(PREFIX).removesuffix(OPTIONS)


def _own(key: str) -> catalogue.File | None:
    """The file of a task that is not lm-eval's; a key of ours is taken for ours even where lm-eval has such a name."""
    known = catalogue.ours()
    return known.get(key) or known.get(PREFIX + key)


def _unknown(kind: str, word: str) -> LorafuseError:
    hint = did_you_mean(word, catalogue.names() | set(map(task_key, catalogue.ours())))
    return LorafuseError(
        f"unknown {kind} '{word}'.{hint} Suites: {', '.join(suite_names())}. Or name a suite's file, or tasks of"
        f" lm-eval's such as arc_easy/hellaswag; --include-path or {catalogue.VARIABLE} says where others are."
    )


def _of_file(path: Path) -> Suite:
    """The suite of a file; tasks beside it are found by name too."""
    if not path.is_file():
        raise LorafuseError(
            f"no suite file {path}. Check the path, or name a suite: {', '.join(suite_names())}."
        )
    config = catalogue.read(path)
    catalogue.include([f"{glob.escape(str(path.absolute().parent))}/*.y*ml"])
    made = _of_group(path, config)
    found = catalogue.find(made.name)
    if found is None or not path.samefile(found.path):
        where = found.path if found else "no file that is searched"
        raise LorafuseError(
            f"{path}: the name of its group, '{made.name}', is taken by {where}. Name it otherwise."
        )
    return made


def _of_group(path: Path, config: Mapping[str, Any]) -> Suite:
    return _resolved(suite_facts(path, config), config["group"], list(members(path, config)))


def _resolved(facts: SuiteFacts, name: str, members: Sequence[Member]) -> Suite:
    tasks: dict[str, SuiteTask] = {}
    for member in members:
        leaf, key = member.leaf, task_key(member.leaf)
        if key not in tasks:
            tasks[key] = _task(name, member)
        elif leaf.endswith(OPTIONS) and leaf.startswith(PREFIX):
            known = listed_metrics(member.config)
            more = {
                "beside": (*tasks[key].beside, leaf),
                "metrics": tasks[key].metrics | dict.fromkeys(known.kept, leaf),
                "aggregations": {name: known.aggregations[name] for name in known.kept}
                | tasks[key].aggregations,
            }
            tasks[key] = tasks[key].model_copy(update=more)
        else:
            raise LorafuseError(
                f"suite '{name}' names a task twice: {tasks[key].task}, {leaf}. Name one of them."
            )
    losses = {key for key, task in tasks.items() if task.direction == "down"}
    if facts.kind == "loss" and losses != set(tasks):
        raise LorafuseError(
            f"suite '{name}' is of losses, but {min(set(tasks) - losses)} is better the larger. Correct kind or metric."
        )
    files = {name: path for member in members for name, path in member.files.items()}
    told = {each.leaf: {key: each.config.get(key) for key in DATASET} for each in members}
    return Suite(name=name, kind=facts.kind, source=facts.source, tasks=tasks, files=files, datasets=told)


def _task(suite: str, member: Member) -> SuiteTask:
    """A task's definition: the one given for it, or the default rule."""
    where, facts = f"suite '{suite}', task '{member.leaf}'", member.facts
    known = listed_metrics(member.config)
    metric = facts.metric or known.main()
    if metric is None:
        raise LorafuseError(
            f"{where}: of no metric of {', '.join(known.metrics) or 'none listed'} is it known what its items are. Name"
            f" its main one in the suite's file, and what its items are where that is not a mean:"
            f" metadata.{FACTS}.tasks.{member.leaf}.metric and .measure ({', '.join(sorted(measures.measures()))})."
        )
    if known.metrics and metric not in known.metrics:
        raise LorafuseError(
            f"{where}: has no metric '{metric}'.{did_you_mean(metric, known.metrics)}"
            f" It reports {', '.join(known.metrics)}."
        )
    reading = _reading(where, metric, facts, known)
    direction = _direction(where, metric, facts.direction, known)
    plain = "fraction" if direction == "up" else "loss"
    kept = known.kept if metric in known.kept else (*known.kept, metric)
    return SuiteTask(
        task=member.leaf,
        metric=metric,
        metrics=dict.fromkeys(kept, member.leaf),
        aggregations={name: known.aggregations.get(name, "mean") for name in kept},
        measure=facts.measure,
        filter=_filter(where, facts.filter, known),
        direction=direction,
        unit=facts.unit or reading.unit or plain,
        chance=facts.chance,
        version=_version(member.config),
        runs_code=bool(member.config.get("unsafe_code")),
        chosen="named" if facts.metric else RULE,
    )


def _reading(where: str, metric: str, facts: TaskFacts, known: Listed) -> Reading:
    """How items of the main metric are read: as its file says, or as lm-eval's aggregation of it asks."""
    if facts.measure:
        measures.named(facts.measure)
        return Reading()
    made = known.aggregations.get(metric, "mean")  # of a task that lists no metrics
    if found := measures.reader(made):
        return found[1]
    others = f": {', '.join(known.kept)}" if known.kept else ""
    raise LorafuseError(
        f"{where}: {metric} is made by the aggregation '{made}', for which there is no measure. Name another main"
        f" metric{others}, or say what its items are: `measure:` one of {', '.join(sorted(measures.measures()))}."
    )


def _direction(where: str, metric: str, stated: Direction | None, known: Listed) -> Direction:
    made = known.directions.get(metric)
    if stated and made and stated != made:
        raise LorafuseError(
            f"{where}: direction '{stated}' contradicts the metric: for {metric} {made} is better. Correct it."
        )
    return stated or made or "up"


def _version(config: Mapping[str, Any]) -> str | None:
    metadata = config.get("metadata")
    said = metadata.get("version") if isinstance(metadata, dict) else None
    return None if said is None else str(said)


def _filter(where: str, stated: str | None, known: Listed) -> str:
    if stated and stated not in known.filters:
        raise LorafuseError(
            f"{where}: has no filter '{stated}'.{did_you_mean(stated, known.filters)}"
            f" It has {', '.join(known.filters)}."
        )
    return stated or known.filters[0]
