"""The result of one evaluated cell (suite, zoo, method), and the sidecar of its per-item scores."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import ConfigDict, Field, JsonValue, RootModel, ValidationError

from lorafuse_bench.errors import LorafuseError, first_problem
from lorafuse_bench.leaderboards.results import document_hashes, formats, run_ids
from lorafuse_bench.leaderboards.results.made_of import (
    ArtefactId,
    BaseId,
    Cost,
    Data,
    Environment,
    ExpertId,
    Method,
    Seeds,
    Settings,
    Sha256,
    Strict,
    ZooId,
)

if TYPE_CHECKING:
    from lorafuse_bench.tasks.facts import Suite

RESULT_SCHEMA: Final = "lorafuse.result/3"
MOST_ITEMS = 10_000_000


class Dataset(Strict):
    """The rows of one task."""

    hub: str = Field(description="Hub id of the dataset.")
    name: str | None = Field(description="Its configuration; null for the default.")
    revision: str | None = Field(
        default=None, description="Commit of the hub's dataset; null for rows from elsewhere."
    )
    split: str = Field(description="The evaluated split.")


class Metric(Strict):
    """One metric of one task."""

    value: float = Field(description="Value over all items, in `unit`.")
    stderr: float | None = Field(description="Standard error over items; null when not known.")
    stderr_method: Literal["mean", "ratio", "bootstrap"] = Field(
        description="mean: sd/sqrt(n); ratio: delta method of a ratio of sums; bootstrap: sd over resamples."
    )
    measure: str | None = Field(
        default=None,
        description="Name of what its items are: mean, ratio, loss, bleu, ..., or one of a package's; null in results"
        " of version 1.",
    )
    direction: Literal["up", "down"] = Field(description="up: larger is better; down: a loss.")
    unit: str = Field(description="fraction (0 to 1, a correlation from -1), nats/byte or nats/token.")


class SuiteTask(Strict):
    """What a suite says of one of its tasks."""

    key: str = Field(description="Task key.")
    metric: str = Field(description="The metric that stands for it.")
    direction: Literal["up", "down"] = Field(description="up: larger is better; down: a loss.")
    unit: str = Field(description="Unit of that metric.")
    chance: float | None = Field(default=None, description="What guessing scores; null where nothing does.")


class SuiteRecord(Strict):
    """The suite as it was when the cell was run, so that a board needs no other definition of it."""

    kind: Literal["scored", "loss", "oblivion"] = Field(
        description="scored: over the oracle; loss: all metrics are losses; oblivion: before and after."
    )
    source: str | None = Field(default=None, description="The paper it follows.")
    tasks: tuple[SuiteTask, ...] = Field(description="Its tasks, in order.")

    @classmethod
    def of(cls, suite: Suite) -> SuiteRecord:
        tasks = (
            SuiteTask(key=key, metric=t.metric, direction=t.direction, unit=t.unit, chance=t.chance)
            for key, t in suite.tasks.items()
        )
        return cls(kind=suite.kind, source=suite.source, tasks=tuple(tasks))

    @property
    def keys(self) -> tuple[str, ...]:
        """Its task keys, in order."""
        return tuple(task.key for task in self.tasks)


class Request(Strict):
    """What one of lm-eval's tasks sent to the model, and how answers were taken."""

    output_type: str = Field(description="generate_until, loglikelihood, multiple_choice, ...")
    generation: dict[str, JsonValue] = Field(
        description="Settings of generation: stops, tokens, sampling; empty for likelihoods."
    )
    filters: JsonValue = Field(description="lm-eval's filters between answer and metric; null for none.")
    repeats: int = Field(ge=1, description="How often each prompt was asked.")
    prompts_sha256: Sha256 = Field(
        description="sha256 over the hashes of the prompts as they were sent, in the documents' order: instruction,"
        " examples and chat template included."
    )


class Task(Strict):
    """One task's scores."""

    dataset: Dataset = Field(description="The rows it was measured on.")
    version: str = Field(description="Version of the task's definition, raised when its prompts change.")
    few_shot: int = Field(ge=0, description="Examples in the prompt.")
    n: int = Field(ge=1, le=MOST_ITEMS, description="Items evaluated.")
    n_original: int = Field(ge=1, description="Items the split has.")
    docs_sha256: Sha256 = Field(description="sha256 over the documents' hashes, in order.")
    metrics: dict[str, Metric] = Field(description="Metric name to its value.")
    requests: dict[str, Request] | None = Field(
        default=None,
        description="lm-eval's name of each task that was asked to what it sent; null in results of version 1.",
    )
    filter: str | None = Field(
        default=None,
        description="lm-eval's filter whose answers were scored; null in results of versions 1 and 2.",
    )
    representative: str = Field(description="The metric that represents the task in the ability.")
    empty_share: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Share of the written answers that are nothing but white space; null where none are written,"
        " and in results older than this field.",
    )


class Truncation(Strict):
    """How prompts too long for the model were cut."""

    rule: str = Field(description="middle: the beginning and the end of a prompt stay.")
    length: int = Field(ge=1, description="Tokens of prompt and answer at most, as it ran.")
    answers: dict[str, int] = Field(
        default_factory=dict,
        description="Task key to the tokens that its answers were held to, where half of `length` is less than"
        " the task allows.",
    )


class Result(Strict):
    """The result file of one cell. Build it with `Result.of`, which fills in the hashes."""

    schema_: Literal["lorafuse.result/1", "lorafuse.result/2", "lorafuse.result/3"] = Field(
        default=RESULT_SCHEMA, alias="schema", description="Schema id: which fields the run id counts."
    )
    run_id: Sha256 = Field(description="sha256 of all inputs: the same run again has the same id.")
    suite: str = Field(description="Name of the suite, such as mtl5.")
    definition: SuiteRecord | None = Field(
        default=None, description="The suite as it was run; null in results of version 1."
    )
    method: Method = Field(description="The fusion method.")
    zoo: ZooId = Field(description="The zoo.")
    base: BaseId = Field(description="The base model.")
    experts: tuple[ExpertId, ...] = Field(description="The pool, in order.")
    artefacts: tuple[ArtefactId, ...] = Field(description="What was learned and used, by name.")
    data: Data = Field(description="Where the rows came from.")
    limit: int | float | None = Field(
        description="Items per task at most, or below 1 the share of them; null for all."
    )
    max_length: int | None = Field(
        default=None, description="Tokens of prompt and answer at most; null for the model's own length."
    )
    truncation: Truncation | None = Field(
        default=None,
        description="How longer prompts were cut; null in results older than this field, which lost their start.",
    )
    num_fewshot: int | None = Field(
        default=None, ge=0, description="Examples asked for in every prompt; null for each task's own number."
    )
    settings: Settings | None = Field(
        default=None,
        description="What else was asked of the model; null in results of versions 1 and 2, which do not say.",
    )
    batch_size: int | str = Field(description="As given to lm-eval: a number, or auto.")
    seeds: Seeds = Field(description="Seeds of the evaluation.")
    cost: Cost = Field(description="What it cost.")
    environment: Environment = Field(description="What it ran on.")
    tasks: dict[str, Task] = Field(description="Task key to its scores.")
    items_sha256: Sha256 = Field(description="sha256 of the sidecar of per-item scores, before compression.")

    @classmethod
    def of(cls, items: Items, tasks: dict[str, dict[str, Any]], **fields: Any) -> Result:
        """A result with its hashes, from the items and all other fields; LorafuseError for a bad field."""
        hashed: Any = {
            key: {**task, "docs_sha256": items.root[key].docs_sha256()} for key, task in tasks.items()
        }
        try:
            draft = cls(run_id="0" * 64, items_sha256=items.sha256(), tasks=hashed, **fields)
        except ValidationError as error:
            raise invalid("result", error) from error
        return draft.model_copy(update={"run_id": run_id(draft)})

    def content(self) -> dict[str, Any]:
        """The file's JSON, as the result's own version writes it."""
        return formats.as_written(self.model_dump(mode="json", by_alias=True))

    @property
    def told(self) -> Settings:
        """Its settings; of an older result, which does not say, those of a plain run."""
        return self.settings or Settings()


class TaskItems(Strict):
    """Per-item scores of one task, sorted by doc_id."""

    doc_hashes: tuple[Sha256, ...] = Field(
        description="Hash of each document: what was scored. Empty in a published folder, which keeps those of"
        " all its cells once, in documents/<docs_sha256>.txt.gz, one a line."
    )
    metrics: dict[str, list[float] | list[list[float]]] = Field(
        description="Metric name to one entry per item: a score; or [numerator, denominator], for a ratio of"
        " sums; or the BLEU statistics [sys_len, ref_len, correct 1..4, total 1..4]."
    )

    def docs_sha256(self) -> str:
        """sha256 over the documents' hashes, in order."""
        return document_hashes.docs_sha256(self.doc_hashes)

    def with_hashes(self, hashes: tuple[str, ...]) -> TaskItems:
        """The same scores, of these documents."""
        return TaskItems.model_construct(doc_hashes=hashes, metrics=self.metrics)


class Items(RootModel[dict[str, TaskItems]]):
    """The sidecar of a result: task key to its items."""

    model_config = ConfigDict(frozen=True)

    def content(self) -> bytes:
        """The sidecar's JSON; the same items give the same bytes."""
        return self.model_dump_json().encode()

    def sha256(self) -> str:
        """sha256 of the sidecar's JSON."""
        return hashlib.sha256(self.content()).hexdigest()


def run_id(result: Result) -> str:
    """The id that a result's inputs have: not its scores, cost or environment; see `run_ids`."""
    return run_ids.run_id(result.content())


def invalid(where: str | Path, error: ValidationError) -> LorafuseError:
    """The first problem pydantic found, as one line."""
    return LorafuseError(f"{where}: {first_problem(error)}. Correct the field or run the cell again.")
