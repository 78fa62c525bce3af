"""A suite: which tasks belong together, and which metric speaks for each.

A suite is a group of lm-eval's, one YAML file, so `lm_eval --tasks` runs it too. What boards ask beyond that stands
under `metadata: lorafuse:` of the group (`SuiteFacts`) and of each task (`TaskFacts`); docs/tasks.md has the form.
Where nobody names a task's main metric it is chosen by a rule, and the suite says by which.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from lorafuse_bench.errors import LorafuseError, did_you_mean
from lorafuse_bench.tasks import catalogue
from lorafuse_bench.tasks.listed import Listed, listed_metrics

PREFIX = "lorafuse_"
OPTIONS = "_options"
FACTS = "lorafuse"
RULE = "the first metric listed that is a mean over items or bits_per_byte, with the first filter"
# lm-eval's aggregations -> the unit of what they make, where it is not a fraction.
_UNITS = {"bits_per_byte": "bits/byte", "bleu": "percent", "chrf": "percent", "ter": "percent"}

Direction = Literal["up", "down"]


def _fraction(value: Any) -> Any:
    return float(Fraction(value)) if isinstance(value, str) else value


class Strict(BaseModel):
    """Unknown fields, NaN and inf are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TaskFacts(Strict):
    """What a task's YAML says under `metadata: lorafuse:`, or a suite under `tasks:` for one of its tasks."""

    metric: str | None = Field(default=None, description="The metric that stands for the task in a mean.")
    filter: str | None = Field(default=None, description="lm-eval's filter whose answers are scored.")
    direction: Direction | None = Field(default=None, description="up: larger is better; down: a loss.")
    unit: str | None = Field(default=None, description="Such as 'fraction' (0 to 1) or 'nats/byte'.")
    chance: Annotated[float | None, BeforeValidator(_fraction)] = Field(
        default=None, description="What guessing alike among the answers scores, such as 1/4."
    )


class SuiteFacts(Strict):
    """What a group's YAML says under `metadata: lorafuse:`."""

    kind: Literal["scored", "loss", "oblivion"] = Field(
        default="scored",
        description="scored: normalised by the oracle; loss: all metrics are losses; oblivion: no expert was trained"
        " for its tasks, boards compare with the base.",
    )
    source: str | None = Field(default=None, description="The paper it follows.")
    tasks: dict[str, TaskFacts] = Field(
        default_factory=dict, description="lm-eval's name of a task to what differs here."
    )


class SuiteTask(Strict):
    """One task of a suite, as results are read."""

    task: str = Field(description="lm-eval's name of the task.")
    beside: tuple[str, ...] = Field(
        default=(), description="Further tasks of lm-eval's that ask the same documents otherwise."
    )
    metric: str = Field(description="The metric that stands for the task.")
    metrics: dict[str, str] = Field(
        description="The metrics that results keep, each with the task of lm-eval's that reports it: those whose"
        " value a statistic of ours makes from items."
    )
    filter: str = Field(default="none", description="lm-eval's filter whose answers are scored.")
    direction: Direction = Field(description="up: larger is better; down: a loss.")
    unit: str = Field(description="Unit of the metric.")
    chance: float | None = Field(
        default=None, description="What guessing scores; null where that says nothing."
    )
    runs_code: bool = Field(default=False, description="Whether scoring runs code that the model wrote.")
    chosen: str = Field(default="named", description="'named', or the rule that chose the metric.")

    @property
    def leaves(self) -> tuple[str, ...]:
        return (self.task, *self.beside)


class Suite(Strict):
    """Tasks that are reported together; a result keeps the suite it was run under."""

    name: str = Field(description="Name, such as mtl5; of tasks by name these, such as piqa/boolq.")
    kind: Literal["scored", "loss", "oblivion"] = Field(default="scored", description="See SuiteFacts.")
    source: str | None = Field(default=None, description="The paper it follows.")
    tasks: dict[str, SuiteTask] = Field(description="Task key to its definition, in the suite's order.")
    files: dict[str, Path] = Field(
        default_factory=dict,
        exclude=True,
        description="Name to file, of its tasks and groups; of this machine only.",
    )

    @property
    def leaves(self) -> tuple[str, ...]:
        """The lm-eval tasks, in order."""
        return tuple(leaf for task in self.tasks.values() for leaf in task.leaves)


@dataclass(frozen=True)
class Member:
    """One of lm-eval's tasks in a suite: its configuration, functions unresolved, and what is said of it."""

    leaf: str
    config: Mapping[str, Any]
    facts: TaskFacts
    files: Mapping[str, Path]

    @classmethod
    def of(cls, file: catalogue.File, changes: Mapping[str, Any] | None = None) -> Member:
        config = {**catalogue.read(file.path), **(changes or {})}
        facts = _facts(TaskFacts, f"task '{file.name}': metadata.{FACTS}", config)
        return cls(file.name, config, facts, {file.name: file.path})

    def under(self, told: TaskFacts | None) -> Member:
        """The task as a suite tells it; of another metric than its own, its own facts say nothing."""
        if told is None:
            return self
        own = self.facts if told.metric in (None, self.facts.metric) else TaskFacts(filter=self.facts.filter)
        return replace(self, facts=own.model_copy(update=told.model_dump(exclude_none=True)))


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
        return _of_group(found.path, catalogue.read(found.path))
    if len(set(words)) < len(words):
        raise LorafuseError(f"suite '{name}' names a task twice. Name each once.")
    leaves: list[catalogue.File] = []
    for word in words:
        file = _own(word) or catalogue.find(word)
        if file is None or file.group:
            raise _unknown("suite" if len(words) == 1 else "task", word)
        twin = catalogue.ours().get(file.name + OPTIONS) if file.name.startswith(PREFIX) else None
        leaves += [each for each in (file, twin) if each]
    return _of_leaves(leaves)


def suite_of_leaves(names: Sequence[str], groups: Iterable[str]) -> Suite:
    """The suite that lm-eval was asked for, from the tasks and groups it loaded.

    It is the group that holds just these tasks, else the tasks by name. LorafuseError where one of them is in no
    file, or has no main metric.
    """
    files = {name: catalogue.find(name) for name in (*groups, *names)}
    for group in groups:
        file = files[group]
        if file and file.group:
            found = _of_group(file.path, catalogue.read(file.path))
            if set(found.leaves) == set(names):
                return found
    known = [file for name in names if (file := files[name]) and not file.group]
    if len(known) < len(names):
        raise _unknown("task", min(set(names) - {file.name for file in known}))
    return _of_leaves(known)


def _of_leaves(files: Iterable[catalogue.File]) -> Suite:
    """Tasks by name, in the order of their keys, as lm-eval sorts what it is asked for."""
    ordered = sorted(files, key=lambda file: (task_key(file.name), file.name))
    name = "/".join(dict.fromkeys(task_key(file.name) for file in ordered))
    return _resolved(name, SuiteFacts(), [Member.of(file) for file in ordered])


def task(key: str) -> SuiteTask:
    """The definition of one task by its key or lm-eval's name; LorafuseError where there is none."""
    file = _own(key) or catalogue.find(key)
    if file is None or file.group:
        raise _unknown("task", key)
    return suite(file.name).tasks[task_key(file.name)]


def suites() -> Iterator[Suite]:
    """The suites of `suite_names`."""
    return map(suite, suite_names())


def of_oblivion(name: str) -> bool:
    """Whether there is a suite of that name, and of that kind."""
    file = catalogue.ours().get(name)
    return file is not None and file.group and suite(name).kind == "oblivion"


def task_key(task_name: str) -> str:
    """`lorafuse_sst2` and `lorafuse_sst2_options` -> `sst2`; any other name is its own key."""
    if not task_name.startswith(PREFIX):
        return task_name
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
    catalogue.include([path.absolute().parent / "*.yaml"])
    return _of_group(path, config)


def _of_group(path: Path, config: Mapping[str, Any]) -> Suite:
    facts = _suite_facts(path, config)
    return _resolved(config["group"], facts, list(_members(path, config, (config["group"],))))


def _suite_facts(path: Path, config: Mapping[str, Any]) -> SuiteFacts:
    name = config.get("group")
    if not isinstance(name, str) or not isinstance(config.get("task"), list) or not config["task"]:
        raise LorafuseError(
            f"{path}: no suite: it needs `group:`, its name, and `task:`, the list of its tasks. See docs/tasks.md."
        )
    found: SuiteFacts = _facts(SuiteFacts, f"{path}: metadata.{FACTS}", config)
    return found


def _members(path: Path, config: Mapping[str, Any], inside: tuple[str, ...]) -> Iterator[Member]:
    """The tasks of a group, those of groups in it included; what a group says of a task overrides the task."""
    told = dict(_suite_facts(path, config).tasks)
    shared = {key: value for key, value in config.items() if key not in _GROUP_KEYS}
    for item in config["task"]:
        given = {"task": item} if isinstance(item, str) else item
        name = given.get("task") if isinstance(given, dict) else None
        if not isinstance(name, str):
            raise LorafuseError(
                f"{path}: task: {item!r} names no task. List names, or `task: name` with changes."
            )
        file = catalogue.find(name)
        if file is None:
            raise LorafuseError(f"{path}: {_unknown('task', name)}")
        own = catalogue.read(file.path)
        if file.group and name in inside:
            raise LorafuseError(f"{path}: group '{name}' holds itself. Name its tasks.")
        below = (
            _members(file.path, own, (*inside, name))
            if file.group
            else [Member.of(file, {**shared, **given})]
        )
        for member in below:
            yield replace(
                member.under(told.pop(member.leaf, None)), files={**member.files, config["group"]: path}
            )
    if told:
        raise LorafuseError(
            f"{path}: metadata.{FACTS}.tasks: '{min(told)}' is no task of the suite. Correct the name."
        )


_GROUP_KEYS = {"group", "group_alias", "task", "aggregate_metric_list", "metadata", "tag"}


def _resolved(name: str, facts: SuiteFacts, members: Sequence[Member]) -> Suite:
    tasks: dict[str, SuiteTask] = {}
    for member in members:
        leaf, key = member.leaf, task_key(member.leaf)
        if key not in tasks:
            tasks[key] = _task(name, member)
        elif leaf.endswith(OPTIONS) and leaf.startswith(PREFIX):
            kept = dict.fromkeys(listed_metrics(member.config).kept, leaf)
            more = {"beside": (*tasks[key].beside, leaf), "metrics": {**tasks[key].metrics, **kept}}
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
    return Suite(name=name, kind=facts.kind, source=facts.source, tasks=tasks, files=files)


def _task(suite: str, member: Member) -> SuiteTask:
    """A task's definition: what is said of it, or the rule."""
    where, facts = f"suite '{suite}', task '{member.leaf}'", member.facts
    known = listed_metrics(member.config)
    metric = facts.metric or known.first_mean()
    if metric is None:
        raise LorafuseError(
            f"{where}: no metric of {', '.join(known.metrics) or 'none listed'} is a mean over items. Name its main one"
            f" in the suite's file: metadata.{FACTS}.tasks.{member.leaf}.metric."
        )
    if known.metrics and metric not in known.metrics:
        raise LorafuseError(
            f"{where}: has no metric '{metric}'.{did_you_mean(metric, known.metrics)}"
            f" It reports {', '.join(known.metrics)}."
        )
    direction = _direction(where, metric, facts.direction, known)
    plain = "fraction" if direction == "up" else "loss"
    return SuiteTask(
        task=member.leaf,
        metric=metric,
        metrics=dict.fromkeys((*known.kept, *({metric} - set(known.kept))), member.leaf),
        filter=_filter(where, facts.filter, known),
        direction=direction,
        unit=facts.unit or _UNITS.get(known.aggregations.get(metric, ""), plain),
        chance=facts.chance,
        runs_code=bool(member.config.get("unsafe_code")),
        chosen="named" if facts.metric else RULE,
    )


def _direction(where: str, metric: str, stated: Direction | None, known: Listed) -> Direction:
    made = known.directions.get(metric)
    if stated and made and stated != made:
        raise LorafuseError(
            f"{where}: direction '{stated}' contradicts the metric: for {metric} {made} is better. Correct it."
        )
    return stated or made or "up"


def _filter(where: str, stated: str | None, known: Listed) -> str:
    if stated and stated not in known.filters:
        raise LorafuseError(
            f"{where}: has no filter '{stated}'.{did_you_mean(stated, known.filters)}"
            f" It has {', '.join(known.filters)}."
        )
    return stated or known.filters[0]


def _facts(kind: type[Any], where: str, config: Mapping[str, Any]) -> Any:
    metadata = config.get("metadata")
    said = metadata.get(FACTS) if isinstance(metadata, dict) else None
    try:
        return kind.model_validate(said or {})
    except (ValidationError, ValueError, ZeroDivisionError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        field = ".".join(str(part) for part in first["loc"])
        raise LorafuseError(f"{where}.{field}: {first['msg']}. Correct it; see docs/tasks.md.") from error
