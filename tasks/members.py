"""The tasks of a group of lm-eval's, as it would load them: by name, by tag, or defined inside the group.

A task inside a group is one that no file defines: the group's own keys, and what its entry changes. So a family of
tasks that differ in one parameter is one file. lm-eval calls such a task `group::name`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lorafuse_bench.errors import LorafuseError, did_you_mean
from lorafuse_bench.tasks import catalogue
from lorafuse_bench.tasks.facts import FACTS, SuiteFacts, TaskFacts, facts

INSIDE = "::"
_GROUP_KEYS = {"group", "group_alias", "task", "aggregate_metric_list", "metadata", "tag"}


@dataclass(frozen=True)
class Member:
    """One of lm-eval's tasks in a suite: its configuration, with functions unresolved, and its metadata."""

    leaf: str
    config: Mapping[str, Any]
    facts: TaskFacts
    files: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def of(cls, file: catalogue.File, changes: Mapping[str, Any] | None = None) -> Member:
        config = {**catalogue.config(file), **(changes or {})}
        if not isinstance(config["task"], str):
            raise LorafuseError(f"{file.path}: the name {config['task']!r} is no text. Put it in quotes.")
        said = facts(TaskFacts, f"task '{file.name}': metadata.{FACTS}", config)
        return cls(file.name, config, said, {file.name: file.path})

    def under(self, told: TaskFacts) -> Member:
        """The task as a suite tells it; of another metric than its own, its own facts say nothing."""
        own = self.facts if told.metric in (None, self.facts.metric) else TaskFacts(filter=self.facts.filter)
        return replace(self, facts=own.model_copy(update=told.model_dump(exclude_none=True)))


def suite_facts(path: Path, config: Mapping[str, Any]) -> SuiteFacts:
    """What a group's file says of it as a suite; LorafuseError where it is no group."""
    name = config.get("group")
    if name is None and isinstance(config.get("task"), str):
        raise LorafuseError(
            f"{path}: the file of a task, not of a suite. Name the task:"
            f" --include-path {path.parent} --suites {config['task']}"
        )
    if not isinstance(name, str) or not isinstance(config.get("task"), list) or not config["task"]:
        raise LorafuseError(
            f"{path}: no suite: it needs `group:`, its name, and `task:`, the list of its tasks."
            " See docs/extending/suite.md."
        )
    found: SuiteFacts = facts(SuiteFacts, f"{path}: metadata.{FACTS}", config)
    return found


def members(path: Path, config: Mapping[str, Any], inside: tuple[str, ...] = ()) -> Iterator[Member]:
    """The tasks of a group, those of groups in it included; what a group says of a task overrides the task."""
    said = suite_facts(path, config)
    told = dict(said.tasks)
    group = config["group"]
    for item in config["task"]:
        for member in _entry(path, config, item, (*inside, group)):
            about = said.each.model_copy(
                update=told.pop(member.leaf, TaskFacts()).model_dump(exclude_none=True)
            )
            yield replace(member.under(about), files={**member.files, group: path})
    if told:
        raise LorafuseError(
            f"{path}: metadata.{FACTS}.tasks: '{min(told)}' is not a task of the suite. Correct the name."
        )


def _entry(path: Path, config: Mapping[str, Any], item: Any, inside: tuple[str, ...]) -> Iterator[Member]:
    """The tasks that one entry of a group stands for: one task, those of a group or tag, or a task defined inline."""
    given = {"task": item} if isinstance(item, str) else item
    name = given.get("task") if isinstance(given, dict) else None
    if not isinstance(name, str):
        raise LorafuseError(
            f"{path}: task: {item!r} names no task. List names, or `task: name` with changes."
        )
    changes = {key: value for key, value in config.items() if key not in _GROUP_KEYS} | given
    file = catalogue.find(name)
    if file is not None and file.group:
        if name in inside:
            raise LorafuseError(f"{path}: group '{name}' holds itself. Name its tasks.")
        yield from members(file.path, catalogue.config(file), inside)
    elif file is not None:
        yield Member.of(file, changes)
    elif {"dataset_path", "custom_dataset"} & changes.keys():
        leaf = f"{inside[-1]}{INSIDE}{name}"
        yield Member(leaf, changes, facts(TaskFacts, f"{path}: task '{name}': metadata.{FACTS}", given))
    elif tagged := catalogue.tagged(name):
        yield from (Member.of(each, {**changes, "task": each.name}) for each in tagged)
    else:
        raise LorafuseError(
            f"{path}: unknown task '{name}'.{did_you_mean(name, catalogue.names())} Correct the name, or define it here"
            " with its `dataset_path:`."
        )
