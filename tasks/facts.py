"""What is said of tasks and suites in their files, and the suite that comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from lorafuse_bench.errors import LorafuseError, first_problem

FACTS = "lorafuse"
Direction = Literal["up", "down"]
_KEYS = "Correct it; docs/extending/task.md lists the keys."


def _fraction(value: Any) -> Any:
    try:
        return float(Fraction(value)) if isinstance(value, str) else value
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{value!r} is no number, such as 0.25 or 1/4") from error


class Strict(BaseModel):
    """Unknown fields, NaN and inf are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TaskFacts(Strict):
    """What a task's YAML says under `metadata: lorafuse:`, or a suite under `tasks:` for one of its tasks."""

    metric: str | None = Field(default=None, description="The metric that represents the task in a mean.")
    measure: str | None = Field(
        default=None, description="What the metric's items are, where lm-eval's aggregation does not say it."
    )
    filter: str | None = Field(default=None, description="lm-eval's filter whose answers are scored.")
    direction: Direction | None = Field(default=None, description="up: larger is better; down: a loss.")
    unit: str | None = Field(default=None, description="Such as 'fraction' (0 to 1) or 'nats/byte'.")
    chance: Annotated[float | None, BeforeValidator(_fraction)] = Field(
        default=None, description="What guessing uniformly among the answers scores, such as 1/4."
    )


class SuiteFacts(Strict):
    """What a group's YAML says under `metadata: lorafuse:`."""

    kind: Literal["scored", "loss", "oblivion"] = Field(
        default="scored",
        description="scored: normalised by the oracle; loss: all metrics are losses; oblivion: no expert was trained"
        " for its tasks, boards compare with the base.",
    )
    source: str | None = Field(default=None, description="The paper it follows.")
    each: TaskFacts = Field(
        default=TaskFacts(), description="What holds for every task that says nothing else."
    )
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
        " value a measure makes of items."
    )
    aggregations: dict[str, str] = Field(
        default_factory=dict,
        description="Metric to lm-eval's aggregation of it; of results older than this none.",
    )
    measure: str | None = Field(
        default=None, description="The main metric's measure, where its file says it."
    )
    filter: str = Field(default="none", description="lm-eval's filter whose answers are scored.")
    direction: Direction = Field(description="up: larger is better; down: a loss.")
    unit: str = Field(description="Unit of the metric.")
    chance: float | None = Field(
        default=None, description="What guessing scores; null where that says nothing."
    )
    version: str | None = Field(
        default=None, exclude=True, description="Version of its definition now, where its file says one."
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
    datasets: dict[str, dict[str, Any]] = Field(
        default_factory=dict, exclude=True, description="lm-eval's name of a task to where its rows are from."
    )

    @property
    def leaves(self) -> tuple[str, ...]:
        """The lm-eval tasks, in order."""
        return tuple(leaf for task in self.tasks.values() for leaf in task.leaves)


def facts(kind: type[Any], where: str, config: Mapping[str, Any]) -> Any:
    """What a file's `metadata: lorafuse:` says, as a `kind`; LorafuseError, opening with `where`, if it is none."""
    metadata = config.get("metadata")
    said = (metadata.get(FACTS) if isinstance(metadata, dict) else None) or {}
    if not isinstance(said, dict):
        raise LorafuseError(f"{where}: {said!r} is no `key: value` lines. {_KEYS}")
    try:
        return kind.model_validate(said)
    except ValidationError as error:
        raise LorafuseError(f"{where}.{first_problem(error)}. {_KEYS}") from error
